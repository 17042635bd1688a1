"""No champion is judged by rows that it learned from, whatever was changed since."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.snapshot import sides_of_partitions
from pipelines_lib.data.splitting import with_split
from pipelines_lib.errors import DataError
from pipelines_lib.evaluation.holdout import known_split, new_to
from pipelines_lib.registry.package import Feature, Manifest
from pipelines_lib.use_case import Split, UseCase

DAYS = [f"2026-01-{day:02d}" for day in range(1, 29)]


def use_case(split, entity="who"):
    columns = {name: {"type": "string", "role": "entity" if name == entity else "other"} for name in ("who", "shop")}
    return UseCase.model_validate(
        {
            "name": "x", "title": "x", "owner": "x", "task": "binary", "start": "2026-01-01", "source": {"path": "{partition}"},
            "columns": {**columns, "x": {"type": "number"}, "y": {"type": "string", "role": "label"}}, "split": split.model_dump(),
            "label": {"column": "y", "positive": "1"}, "gate": {"metric": "roc_auc", "floor": 0.5},
        }
    )  # fmt: skip


def snapshot(split, days):
    """The labelled rows of `days` with their sides, as a training reads them."""
    rows = {
        "row_id": [f"{day}:{line:09d}" for day in days for line in range(9)],
        "partition_key": [day for day in days for _ in range(9)],
        "who": [None if line == 8 else f"u{(5 * DAYS.index(day) + 3 * line) % 23}" for day in days for line in range(9)],
        "shop": [f"s{line % 4}" for _ in days for line in range(9)],
    }
    table = with_split(pa.table(rows), use_case(split))
    if split.by == "partition":
        sides = sides_of_partitions(days, split)
        table = table.set_column(4, "split", pa.array([sides[day] for day in table["partition_key"].to_pylist()]))
    return table


def side(rows, *sides):
    return [row for row in rows.to_pylist() if row["split"] in sides]


def champion(split, days, entity="who"):
    ref = DatasetRef(
        use_case="x", table="labelled", version=1, partitions=tuple(days), n_rows=9 * len(days), config_hash="c", content_hash="d"
    )
    return Manifest(
        use_case="x", task="binary", classes=("0", "1"), positive="1", features=(Feature(name="x", type="number"),), metrics={},
        snapshot=ref, split=split, entity=entity, mlflow_run_id="run",
    )  # fmt: skip


def test_rows(rows):
    return rows.filter(pa.array([side == "test" for side in rows["split"].to_pylist()]))


test_rows.__test__ = False

shares = st.sampled_from([0.05, 0.1, 0.15, 0.2, 0.3, 0.39])
windows = st.tuples(st.integers(0, 25), st.integers(3, 28)).map(lambda w: DAYS[w[0] : w[0] + w[1]]).filter(lambda days: len(days) >= 3)
pairs = st.sampled_from(["entity", "row", "partition"]).flatmap(
    lambda by: st.tuples(*(st.builds(Split, by=st.just(by), validation=shares, test=shares, seed=st.integers(0, 2)) for _ in range(2)))
)


@given(pairs, windows, windows)
def test_no_row_that_the_champion_learned_from_is_compared_on(splits, then, now):
    old, new = splits
    learned = side(snapshot(old, then), "train", "validation")
    test = test_rows(snapshot(new, now))
    fair = test.filter(pa.array(new_to(champion(old, then), use_case(new), test))).to_pylist()
    assert not {row["row_id"] for row in fair} & {row["row_id"] for row in learned}
    if old.by == "entity":
        assert not {row["who"] for row in fair} & {row["who"] for row in learned} - {None}


@given(pairs.map(lambda pair: pair[0]).filter(lambda split: split.by != "partition"), windows, windows)
def test_while_the_settings_stay_every_row_is_compared_on(split, then, now):
    test = test_rows(snapshot(split, now))
    assert new_to(champion(split, then), use_case(split), test).all()


def test_a_wider_window_by_partition_leaves_out_what_the_narrow_one_learned():
    split = Split(by="partition")
    test = test_rows(snapshot(split, DAYS))  # the newest six days of 28
    fair = test["partition_key"].filter(pa.array(new_to(champion(split, DAYS[-14:]), use_case(split), test)))
    assert (test.num_rows, sorted(set(fair.to_pylist()))) == (6 * 9, DAYS[-3:])


@pytest.mark.parametrize(
    ("old", "new", "entity", "why"),
    [
        (Split(by="row"), Split(by="entity"), "who", r"split by row, now they are by entity \(who\)"),
        (Split(by="entity"), Split(by="partition"), "who", "now they are by partition"),
        (Split(by="entity"), Split(by="entity"), "shop", r"by entity \(shop\), now they are by entity \(who\)"),
        (None, Split(by="entity"), "who", "does not say which rows it learned from.* Run x__data again"),
    ],
)
def test_another_kind_of_split_can_not_be_compared_across(old, new, entity, why):
    with pytest.raises(DataError, match=why):
        new_to(champion(old, DAYS, entity), use_case(new), test_rows(snapshot(new, DAYS)))


@pytest.mark.parametrize("by", ["entity", "row", "partition"])
def test_rows_prepared_under_other_settings_have_no_known_split(by):
    split = Split(by=by)
    rows = snapshot(split, DAYS)
    assert known_split(use_case(split), rows) == split
    changed = split.model_copy(update={"test": 0.3})
    if by != "partition":
        assert known_split(use_case(changed), rows) is None
        mixed = pa.concat_tables([rows.slice(0, 90), snapshot(changed, DAYS).slice(90)])
        assert known_split(use_case(changed), mixed) is None
