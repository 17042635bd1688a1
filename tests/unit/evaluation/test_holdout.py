"""No champion is judged by rows that it learned from, whatever was changed since."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.sides import sides_of_partitions
from pipelines_lib.data.splitting import with_split
from pipelines_lib.errors import DataError
from pipelines_lib.evaluation.holdout import known_split, new_to
from pipelines_lib.registry.package import Feature, Manifest
from pipelines_lib.use_case import Split, UseCase

DAYS = [f"2026-01-{day:02d}" for day in range(1, 29)]


def use_case(split, entity="who", horizon=0):
    columns = {name: {"type": "string", "role": "entity" if name == entity else "other"} for name in ("who", "shop")}
    return UseCase.model_validate(
        {
            "name": "x", "title": "x", "owner": "x", "task": "binary", "start": "2026-01-01", "source": {"path": "{partition}"},
            "columns": {**columns, "x": {"type": "number"}, "y": {"type": "string", "role": "label"}}, "split": split.model_dump(),
            "label": {"column": "y", "positive": "1", "horizon": horizon}, "gate": {"metric": "roc_auc", "floor": 0.5},
        }
    )  # fmt: skip


def snapshot(split, days, gap=0):
    """The labelled rows of `days` with their sides, as a training reads them."""
    rows = {
        "row_id": [f"{day}:{line:09d}" for day in days for line in range(9)],
        "partition_key": [day for day in days for _ in range(9)],
        "who": [None if line == 8 else f"u{(5 * DAYS.index(day) + 3 * line) % 23}" for day in days for line in range(9)],
        "shop": [f"s{line % 4}" for _ in days for line in range(9)],
        "label": [str(line % 2) for _ in days for line in range(9)],
    }
    table = with_split(pa.table(rows), use_case(split))
    if split.by == "time":
        sides = sides_of_partitions(days, split, gap)
        table = table.set_column(
            table.column_names.index("split"), "split", pa.array([sides[day] for day in table["partition_key"].to_pylist()])
        )
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


def splits(by):
    return st.builds(
        Split,
        by=st.just(by),
        group=st.just("shop" if by == "group" else None),
        stratify=st.booleans() if by == "row" else st.just(False),
        validation=shares,
        test=shares,
        seed=st.integers(0, 2),
    )


kinds = st.sampled_from(["entity", "group", "row", "time"])
pairs = kinds.flatmap(lambda by: st.tuples(splits(by), splits(by)))


@given(pairs, windows, windows)
def test_no_row_that_the_champion_learned_from_is_compared_on(splits, then, now):
    old, new = splits
    learned = side(snapshot(old, then), "train", "validation")
    test = test_rows(snapshot(new, now))
    fair = test.filter(pa.array(new_to(champion(old, then), use_case(new), test))).to_pylist()
    assert not {row["row_id"] for row in fair} & {row["row_id"] for row in learned}
    if owner := {"entity": "who", "group": "shop"}.get(old.by):
        assert not {row[owner] for row in fair} & {row[owner] for row in learned} - {None}


@given(kinds.flatmap(splits).filter(lambda split: split.by != "time" and not split.stratify), windows, windows)
def test_while_the_settings_stay_every_row_is_compared_on(split, then, now):
    test = test_rows(snapshot(split, now))
    assert new_to(champion(split, then), use_case(split), test).all()


def test_a_wider_window_by_partition_leaves_out_what_the_narrow_one_learned():
    split = Split(by="time")
    test = test_rows(snapshot(split, DAYS))  # the newest six days of 28
    fair = test["partition_key"].filter(pa.array(new_to(champion(split, DAYS[-14:]), use_case(split), test)))
    assert (test.num_rows, sorted(set(fair.to_pylist()))) == (6 * 9, DAYS[-3:])


def test_days_that_the_champion_knows_by_its_labels_are_left_out():
    split = Split(by="time")
    sides = sides_of_partitions(DAYS, split, 2)
    assert [day for day in DAYS if sides[day] == "validation"][-1] == DAYS[20]
    rows = snapshot(split, DAYS, gap=2)
    new = rows["partition_key"].filter(pa.array(new_to(champion(split, DAYS), use_case(split, horizon=2), rows)))

    # The labels of DAYS[20], which stopped the training, were made of the two days after it.
    assert sorted(set(new.to_pylist())) == DAYS[23:]


def test_a_stratified_champion_is_compared_on_partitions_that_it_never_saw():
    split = Split(by="row", stratify=True)
    test = test_rows(snapshot(split, DAYS[7:21]))
    fair = test["partition_key"].filter(pa.array(new_to(champion(split, DAYS[:14]), use_case(split), test)))

    assert sorted(set(fair.to_pylist())) == sorted({day for day in test["partition_key"].to_pylist() if day > DAYS[13]})
    assert len(fair)


@pytest.mark.parametrize(
    ("old", "new", "entity", "why"),
    [
        (Split(by="row"), Split(by="entity"), "who", r"split by row, now they are by entity \(who\)"),
        (Split(by="entity"), Split(by="time"), "who", "now they are by time"),
        (Split(by="group", group="who"), Split(by="group", group="shop"), "who", r"by group \(who\), now they are by group \(shop\)"),
        (Split(by="entity"), Split(by="entity"), "shop", r"by entity \(shop\), now they are by entity \(who\)"),
        (None, Split(by="entity"), "who", "does not say which rows it learned from.* Run x__data again"),
    ],
)
def test_another_kind_of_split_can_not_be_compared_across(old, new, entity, why):
    with pytest.raises(DataError, match=why):
        new_to(champion(old, DAYS, entity), use_case(new), test_rows(snapshot(new, DAYS)))


@pytest.mark.parametrize(
    "split", [Split(by="entity"), Split(by="group", group="who"), Split(by="row"), Split(by="row", stratify=True), Split(by="time")]
)
def test_rows_prepared_under_other_settings_have_no_known_split(split):
    rows = snapshot(split, DAYS)
    assert known_split(use_case(split), rows) == split
    changed = split.model_copy(update={"test": 0.3})
    if split.by != "time":
        assert known_split(use_case(changed), rows) is None
        mixed = pa.concat_tables([rows.slice(0, 90), snapshot(changed, DAYS).slice(90)])
        assert known_split(use_case(changed), mixed) is None
