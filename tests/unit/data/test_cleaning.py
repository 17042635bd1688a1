import pickle
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv as arrow_csv

from pipelines_lib.data.cleaning import Change, Cleaner, clean
from pipelines_lib.data.typed import cast
from pipelines_lib.errors import ConfigError
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.use_case import CleaningStep


def step(**setting):
    return CleaningStep.model_validate(setting)


ROWS = pa.table(
    {
        "row_id": ["1", "2", "3", "4", "5"],
        "key": ["a", "b", "a", None, None],
        "price": pa.array([1.0, 0.0, 9.0, None, 200.0]),
        "count": pa.array([1, 2, 3, None, 50]),
    }
)


def test_the_first_of_the_equal_stays_and_rows_without_a_key_are_no_equals():
    rows, changes = clean(ROWS, [step(deduplicate=["key"])])

    assert rows["row_id"].to_pylist() == ["1", "2", "4", "5"]
    assert changes == [Change("0: deduplicate", 1, 0)]


def test_steps_run_in_the_order_written():
    rows, changes = clean(ROWS, [step(to_missing={"price": [0, "****"]}), step(fill={"price": 5}), step(clip={"price": [2, 100]})])

    assert rows["price"].to_pylist() == [2.0, 5.0, 9.0, 5.0, 100.0]
    assert [change.values_changed for change in changes] == [1, 2, 2]


def test_bounds_of_integers_are_integers():
    rows, _ = clean(ROWS, [step(clip={"count": [1.5, 9.5]})])

    assert rows["count"].to_pylist() == [2, 2, 3, None, 9]
    assert rows["count"].type == pa.int64()


def test_missing_rows_are_dropped():
    rows, changes = clean(ROWS, [step(drop_missing=["price", "key"])])

    assert rows["row_id"].to_pylist() == ["1", "2", "3"]
    assert changes[0].rows_dropped == 2


def test_a_constant_of_another_type_is_the_use_case_s_fault():
    with pytest.raises(ConfigError, match=r"clean\.0: fill: .*write a value of the column's type"):
        clean(ROWS, [step(fill={"count": "none"})])


def test_no_rows_are_fine():
    steps = [step(deduplicate=["key"]), step(fill={"price": 1}), step(clip={"count": [0, 1]}), step(drop_missing=["key"])]
    assert clean(ROWS.slice(0, 0), steps)[0].num_rows == 0


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.none() | st.floats(-10, 10)), max_size=20))
def test_cleaning_twice_is_cleaning_once(cells):
    rows = pa.table(
        {
            "row_id": pa.array([f"{i:03d}" for i in range(len(cells))], pa.string()),
            "key": pa.array([key for key, _ in cells], pa.string()),
            "price": pa.array([price for _, price in cells], pa.float64()),
        }
    )
    before = rows.to_pylist()
    steps = [step(deduplicate=["key", "price"]), step(clip={"price": [-5, 5]}), step(fill={"price": 1.0}), step(drop_missing=["key"])]

    once, _ = clean(rows, steps)

    # The rows that clipping and filling made equal go in the second pass; after it nothing moves.
    twice, _ = clean(once, steps)
    assert clean(twice, steps)[0].equals(twice)
    assert once["row_id"].to_pylist() == sorted(once["row_id"].to_pylist())
    assert rows.to_pylist() == before


# --- in batches ---------------------------------------------------------------------------------------------------


class Steps:
    def __init__(self, *steps):
        self.clean = steps


KEYS = st.sampled_from(["a", "b", "Ａ ", None])
ROWS_OF_ANYTHING = st.lists(st.tuples(KEYS, st.none() | st.integers(-3, 3), st.none() | st.sampled_from([0.0, 1.5, 99.0])), max_size=14)
STEPS = st.sampled_from(
    [
        step(deduplicate=["key"]),
        step(deduplicate=["key", "time"]),
        step(fill_forward={"columns": ["price"], "by": "key"}),
        step(fill_forward={"columns": ["price", "time"], "by": "key", "order": "time"}),
        step(fill={"time": 1}),
        step(to_missing={"price": [0], "time": [2]}),
        step(clip={"price": [1, 50], "time": [-1, 2]}),
        step(normalise={"key": ["nfkc", "lower"]}),
        step(drop={"price": [1.5], "key": ["b"]}),
        step(drop_missing=["time"]),
        step(drop_columns=["note"]),
    ]
)


def table(cells):
    return pa.table(
        {
            "row_id": pa.array([f"{i:03d}" for i in range(len(cells))], pa.string()),
            "key": pa.array([key for key, _, _ in cells], pa.string()),
            "time": pa.array([time for _, time, _ in cells], pa.int64()),
            "price": pa.array([price for _, _, price in cells], pa.float64()),
            "note": pa.array(["n"] * len(cells), pa.string()),
        }
    )


@given(
    ROWS_OF_ANYTHING,
    st.lists(STEPS, max_size=5, unique_by=lambda s: s.kind if s.kind == "drop_columns" else id(s)),
    st.lists(st.integers(0, 14)),
)
def test_however_the_partition_is_cut_its_rows_come_out_the_same(cells, steps, cuts):
    rows = table(cells)
    places = sorted({0, len(cells), *(cut for cut in cuts if cut < len(cells))})
    batches = [rows.slice(0, 0), *(rows.slice(a, b - a) for a, b in pairwise(places))]
    expected, changes = clean(rows, steps)

    cleaner = Cleaner(Steps(*steps))
    cleaner.plan(lambda columns: (batch.select(columns) for batch in batches))
    cleaner = pickle.loads(pickle.dumps(cleaner))
    cleaned = pa.concat_tables([cleaner.apply(batch)[0] for batch in batches])

    assert cleaned.combine_chunks().equals(expected.combine_chunks())
    assert cleaner.report() == changes
    # Batches may also be cleaned in any order, each with its offset.
    shuffled = [cleaner.apply(batch, offset)[0] for batch, offset in reversed(list(zip(batches, [0, *places], strict=False)))]
    assert pa.concat_tables(reversed(shuffled)).equals(cleaned)


@given(ROWS_OF_ANYTHING, st.lists(STEPS, max_size=4, unique_by=lambda s: s.kind if s.kind == "drop_columns" else id(s)), st.integers(1, 5))
def test_in_any_number_of_shards_its_rows_come_out_the_same(cells, steps, n_shards):
    rows = table(cells)
    expected, changes = clean(rows, steps)

    together, parts = Cleaner(Steps(*steps)), []
    for start, stop in pairwise(len(cells) * number // n_shards for number in range(n_shards + 1)):
        cleaner = Cleaner(Steps(*steps))
        cleaner.plan(lambda columns: iter([rows.select(columns)]), range(start, stop), n_shards)
        parts.append(cleaner.apply(rows.slice(start, stop - start), start)[0])
        together.take_in(cleaner.report())

    assert pa.concat_tables(parts).combine_chunks().equals(expected.combine_chunks())
    assert together.report() == changes


@given(ROWS_OF_ANYTHING)
def test_the_first_of_equals_stays(cells):
    seen = set()
    kept = []
    for place, (key, time, _) in enumerate(cells):
        if key is None or time is None or (key, time) not in seen:
            kept.append(f"{place:03d}")
        seen.add((key, time))

    assert clean(table(cells), [step(deduplicate=["key", "time"])])[0]["row_id"].to_pylist() == kept


@given(ROWS_OF_ANYTHING, st.booleans())
def test_only_the_last_known_value_of_the_same_entity_is_filled_in(cells, by_time):
    places = sorted(range(len(cells)), key=lambda i: (cells[i][1] is None, cells[i][1], i)) if by_time else range(len(cells))
    expected, last = [price for _, _, price in cells], {}
    for place in places:
        key, time, price = cells[place]
        if key is None or (by_time and time is None):
            continue
        if price is None:
            expected[place] = last.get(key)
        else:
            last[key] = price

    rows, [change] = clean(table(cells), [step(fill_forward={"columns": ["price"], "by": "key", "order": "time" if by_time else None})])

    assert rows["price"].to_pylist() == expected
    assert change.values_changed == sum(new is not None and old[2] is None for old, new in zip(cells, expected, strict=True))


def test_a_partition_is_read_no_more_often_than_its_steps_need():
    reads = []

    def read(columns):
        reads.append(columns)
        yield ROWS.select(columns)

    cleaner = Cleaner(Steps(step(fill={"price": 1}), step(clip={"count": [0, 9]}), step(deduplicate=["key"]), step(drop_missing=["count"])))
    cleaner.plan(read)
    assert reads == [["key"], ["key"]]  # hashes, then the rows that may be equal

    reads.clear()
    Cleaner(Steps(step(fill={"price": 1}), step(drop={"key": ["x"]}))).plan(read)
    assert reads == []


@pytest.mark.parametrize(
    ("wanted", "text", "made"),
    [
        (["lower"], "New YORK", "new york"),
        (["blanks"], "a \t b", "a b"),
        (["nfkc"], "ＡＢＣ　１", "ABC 1"),
        (["blanks", "lower", "nfkc"], "Ｎｅｗ　　Ｙｏｒｋ", "new york"),
        (["lower"], "STRASSE ÄÖ", "strasse äö"),
        (["nfkc"], "　", None),
    ],
)
def test_spellings_are_made_alike(wanted, text, made):
    rows, [change] = clean(pa.table({"key": pa.array([text, None, "x"])}), [step(normalise={"key": wanted})])

    assert rows["key"].to_pylist() == [made, None, "x"]
    assert change.values_changed == 1


@given(st.lists(st.text(), max_size=5), st.sets(st.sampled_from(["nfkc", "lower", "blanks"]), min_size=1))
def test_spellings_made_alike_stay(texts, wanted):
    from pipelines_lib.use_case.cleaning import normal

    steps = [step(normalise={"key": sorted(wanted)})]
    once, _ = clean(pa.table({"key": pa.array(texts, pa.string())}), steps)

    assert once["key"].to_pylist() == [normal(text, wanted) or None for text in texts]
    assert clean(once, steps)[0].equals(once)


def test_rows_are_dropped_by_value_and_columns_as_a_whole():
    rows, changes = clean(ROWS, [step(drop={"key": ["b"], "count": [3]}), step(drop_columns=["price"])])

    assert rows["row_id"].to_pylist() == ["1", "4", "5"]
    assert rows.column_names == ["row_id", "key", "count"]
    assert changes == [Change("0: drop", 2, 0), Change("1: drop_columns", 0, 0)]


def test_a_value_to_drop_of_another_type_is_the_use_case_s_fault():
    with pytest.raises(ConfigError, match=r"clean\.0: drop: "):
        clean(ROWS, [step(drop={"count": ["many"]})])


# --- on real rows -------------------------------------------------------------------------------------------------

PIMA = Path(__file__).parents[4] / "shared" / "data" / "pima_diabetes.csv"
NAMES = ["pregnancies", "glucose", "pressure", "skin", "insulin", "bmi", "pedigree", "age", "diabetes"]


@pytest.mark.skipif(not PIMA.exists(), reason=f"there is no {PIMA}: the real data are not here")
def test_zeros_that_mean_missing():
    raw = arrow_csv.read_csv(
        PIMA,
        read_options=arrow_csv.ReadOptions(column_names=NAMES),
        convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(NAMES, pa.string())),
    )
    rows = pa.table(
        {
            "row_id": pa.array([f"{i:03d}" for i in range(raw.num_rows)]),
            **{name: cast(raw[name].combine_chunks(), "number")[0] for name in NAMES},
        }
    )
    steps = [
        step(to_missing={name: [0] for name in ("glucose", "pressure", "skin", "insulin", "bmi")}),
        step(outliers={"columns": ["skin"], "method": "iqr", "action": "clip"}),
        step(impute={"insulin": "mean"}),
    ]

    cleaned, changes = clean(rows, steps)

    assert changes == [Change("0: to_missing", 0, 652)]
    missing = {name: cleaned[name].null_count for name in NAMES if cleaned[name].null_count}
    assert missing == {"glucose": 5, "pressure": 35, "skin": 227, "insulin": 374, "bmi": 11}
    types = dict.fromkeys(NAMES[:-1], "number")
    transform = FeatureTransform.fit({name: cleaned[name].to_numpy() for name in types}, types, steps)
    skin, insulin = transform.fitted
    # Quartiles 22 and 36 of the skin folds there are; 155.55 is the mean of the 394 known insulin values.
    assert (skin.low, skin.high) == (1.0, 57.0)
    assert insulin.value == pytest.approx(155.548, abs=1e-3)
    assert insulin.n_changed == 374
