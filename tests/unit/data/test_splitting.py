import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.splitting import side, with_split
from pipelines_lib.use_case import Split


def table(owners):
    return pa.table({"row_id": [f"2026-01-01:{i:09d}" for i in range(len(owners))], "who": pa.array(owners, pa.string())})


@given(owners=st.lists(st.none() | st.text("ab中 ", max_size=3), min_size=1, max_size=50))
def test_no_entity_stands_on_two_sides(owners):
    use_case = _use_case(by="entity")
    sides: dict[str, set[str]] = {}
    for row in with_split(table(owners), use_case).to_pylist():
        if row["who"] is not None:
            sides.setdefault(row["who"], set()).add(row["split"])

    assert all(len(found) == 1 for found in sides.values())


@given(n=st.integers(1, 30), more=st.integers(0, 30), by=st.sampled_from(["entity", "row"]))
def test_a_row_keeps_its_side_when_others_come(n, more, by):
    owners = [f"u{i % 7}" for i in range(n + more)]
    before = with_split(table(owners[:n]), _use_case(by=by))["split"].to_pylist()

    assert with_split(table(owners), _use_case(by=by))["split"].to_pylist()[:n] == before


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


def test_by_partition_the_snapshot_decides():
    assert set(with_split(table(["a", "b"]), _use_case(by="partition"))["split"].to_pylist()) == {"train"}


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
