from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.splitting import Splitter, side, with_split
from pipelines_lib.use_case import Split


def table(owners):
    return pa.table({"row_id": [f"2026-01-01:{i:09d}" for i in range(len(owners))], "who": pa.array(owners, pa.string())})


BY_OWNER = st.sampled_from([{"by": "entity"}, {"by": "group", "group": "who"}])


@given(owners=st.lists(st.none() | st.text("ab中 ", max_size=3), min_size=1, max_size=50), split=BY_OWNER)
def test_no_entity_stands_on_two_sides(owners, split):
    use_case = _use_case(**split)
    sides: dict[str, set[str]] = {}
    for row in with_split(table(owners), use_case).to_pylist():
        if row["who"] is not None:
            sides.setdefault(row["who"], set()).add(row["split"])

    assert all(len(found) == 1 for found in sides.values())


@given(n=st.integers(1, 30), more=st.integers(0, 30), split=BY_OWNER | st.just({"by": "row"}) | st.just({"by": "row", "stratify": True}))
def test_a_row_keeps_its_side_when_others_come(n, more, split):
    owners = [f"u{i % 7}" for i in range(n + more)]
    rows = table(owners).append_column("label", pa.array([f"c{i * i % 3}" for i in range(n + more)]))
    before = with_split(rows.slice(0, n), _use_case(**split))["split"].to_pylist()

    assert with_split(rows, _use_case(**split))["split"].to_pylist()[:n] == before


@given(
    n=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 40)),
    split=BY_OWNER | st.just({"by": "row"}) | st.just({"by": "row", "stratify": True}),
)
def test_however_the_partition_is_cut_its_rows_get_the_same_sides(n, cuts, split):
    use_case = _use_case(**split)
    rows = table([f"u{i % 7}" for i in range(n)]).append_column("label", pa.array([f"c{i * i % 3}" for i in range(n)]))
    places = sorted({0, n, *(cut for cut in cuts if cut < n)})
    splitter = Splitter(use_case, "2026-01-01")
    parts = [splitter.apply(rows.slice(a, b - a)) for a, b in pairwise(places)]

    whole = with_split(rows.append_column("partition_key", pa.array(["2026-01-01"] * n)), use_case)
    assert pa.concat_tables(parts)["split"].equals(whole["split"])


@given(
    st.lists(st.sampled_from("aaaabbc"), max_size=400),
    st.sampled_from([0.05, 0.15, 0.2, 0.3]),
    st.sampled_from([0.05, 0.1, 0.25]),
    st.integers(0, 9),
)
def test_a_stratified_class_has_its_share_of_each_side(labels, test, validation, seed):
    use_case = _use_case(by="row", stratify=True, test=test, validation=validation, seed=seed)
    rows = table(["u"] * len(labels)).append_column("label", pa.array(labels, pa.string()))
    sides = with_split(rows, use_case)["split"].to_pylist()

    for name in set(labels):
        mine = [side for side, label in zip(sides, labels, strict=True) if label == name]
        assert abs(mine.count("test") - test * len(mine)) < 3
        assert abs(mine.count("validation") - validation * len(mine)) < 3


def test_stratified_partitions_differ_and_come_back():
    use_case = _use_case(by="row", stratify=True)
    rows = pa.table(
        {
            "row_id": [f"{day}:{i:09d}" for day in ("2026-01-01", "2026-01-02") for i in range(50)],
            "partition_key": ["2026-01-01"] * 50 + ["2026-01-02"] * 50,
            "label": ["a", "b"] * 50,
        }
    )
    sides = with_split(rows, use_case)["split"].to_pylist()

    assert sides[:50] != sides[50:]
    assert with_split(rows.slice(50), use_case)["split"].to_pylist() == sides[50:]


@pytest.mark.parametrize("seed", range(5))
def test_the_shares_of_rows_are_near_those_asked_for(seed):
    sides = with_split(table(["u"] * 10_000), _use_case(by="row", seed=seed))["split"].to_pylist()

    assert abs(sides.count("test") / 10_000 - 0.2) < 0.016
    assert abs(sides.count("validation") / 10_000 - 0.15) < 0.0143


@pytest.mark.parametrize("seed", range(5))
def test_the_shares_are_near_those_asked_for(seed):
    split = Split(validation=0.15, test=0.2, seed=seed)
    sides = [side(f"u{i}", split) for i in range(10_000)]

    # Four standard deviations of a binomial share at most.
    assert abs(sides.count("test") / 10_000 - 0.2) < 0.016
    assert abs(sides.count("validation") / 10_000 - 0.15) < 0.0143


def test_the_seed_decides():
    names = [f"u{i}" for i in range(200)]
    assert [side(n, Split(seed=0)) for n in names] == [side(n, Split(seed=0)) for n in names]
    assert [side(n, Split(seed=0)) for n in names] != [side(n, Split(seed=1)) for n in names]


def test_sides_stay_as_they_were_released():
    # A change here would move rows that an earlier model learned from into the hold-out of a later one.
    assert [side(f"u{i}", Split()) for i in range(8)] == GOLDEN
    assert with_split(table(["u"] * 12), _use_case(by="row"))["split"].to_pylist() == GOLDEN_ROWS


def test_by_time_the_snapshot_decides():
    assert set(with_split(table(["a", "b"]), _use_case(by="time"))["split"].to_pylist()) == {"train"}


def _use_case(**split):
    from pipelines_lib.use_case import UseCase

    return UseCase.model_validate(
        {
            "name": "x", "title": "x", "owner": "x", "task": "binary", "start": "2026-01-01", "source": {"path": "{partition}"},
            "columns": {"who": {"type": "string", "role": "entity"}, "x": {"type": "number"}, "y": {"type": "string", "role": "label"}},
            "label": {"column": "y", "positive": "1"}, "gate": {"metric": "roc_auc", "floor": 0.5}, "split": split,
        }
    )  # fmt: skip


GOLDEN = ["train", "train", "train", "train", "validation", "train", "test", "test"]
GOLDEN_ROWS = ["test", "train", "train", "train", "test", "train", "train", "train", "validation", "test", "validation", "validation"]
