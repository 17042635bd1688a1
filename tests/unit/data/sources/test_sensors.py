import datetime as dt
import json
import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines_lib.config import Project
from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources import sensors as module
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.sensors import open_sensors
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs import ingest
from pipelines_lib.use_case import Sensors

DAY = dt.datetime(2026, 1, 1)
LONG = {"layout": "long", "entity": "machine", "time": "at", "name": "sensor", "value": "reading", "every": "10min"}
WIDE = {"layout": "wide", "entity": "machine", "time": "at", "every": "10min"}


@pytest.fixture
def context(tmp_path, make_use_case) -> SourceContext:
    return SourceContext(Project(tmp_path, tmp_path, tmp_path, "local"), make_use_case(), "2026-01-01")


@pytest.fixture
def rows(context) -> Callable[..., list[dict[str, Any]]]:
    """Returns `rows(settings, text)`: a CSV's records as rows, its machine and time shortened; `rows.rejected` are the others."""

    def read(own: dict[str, Any], text: str, cut: int = 3) -> list[dict[str, Any]]:
        header, *lines = [line.split(",") for line in text.split()]
        table = pa.table({name: pa.array([line[i] or None for line in lines], pa.string()) for i, name in enumerate(header)})
        sensors = Sensors.model_validate(own)
        first, *rest = list(open_sensors(sensors, iter([_records(table, cut)]), context))
        assert first.names == sensors.made
        assert first.part == ""
        batches = list(first.batches)
        assert [n for batch in batches for n in batch.numbers.to_pylist()] == list(range(1, sum(b.rows.num_rows for b in batches) + 1))
        read.facts = first.facts
        read.rejected = [(records.part, record) for records in rest for batch in records.batches for record in batch.unreadable]
        found = pa.concat_tables([batch.rows for batch in batches]).to_pylist()
        return [{**row, "at": row["at"].removeprefix("2026-01-01T")} for row in found]

    return read


def _records(table: pa.Table, cut: int, part: str = "") -> Records:
    starts = range(0, table.num_rows, cut)
    batches = (Batch(table.slice(i, cut), pa.array(range(i + 2, min(i + cut, table.num_rows) + 2), pa.int64())) for i in starts)
    return Records(part, table.column_names, batches, {"encoding": "utf-8"})


READINGS = """\
machine,at,sensor,reading
m2,2026-01-01T00:01:00,heat,7
m1,2026-01-01T00:19:59.999,heat,3
m1,2026-01-01T00:00:00,heat,1
m1,2026-01-01T00:09:00,heat,2.5
m1,2026-01-01T00:05:00,state,RUN
m1,2026-01-01T00:04:00,state,STOP
m1,2026-01-01T00:05:00,noise,1
m1,2026-01-01T00:15:00,heat,
m1,2026-01-01T00:00:00,heat,1
"""


def test_readings_become_rows(rows):
    found = rows({**LONG, "columns": {"heat": "mean", "state": "last"}}, READINGS)

    assert found == [
        {"machine": "m1", "at": "00:10:00", "heat": "1.75", "state": "RUN"},  # 1 came twice, and is one reading
        {"machine": "m1", "at": "00:20:00", "heat": "3", "state": None},
        {"machine": "m2", "at": "00:10:00", "heat": "7", "state": None},
    ]
    assert rows.facts == {"encoding": "utf-8", "n_readings": 7, "n_readings_of_other_sensors": 1}
    assert rows.rejected == []


@pytest.mark.parametrize(
    ("how", "heat"), [("min", ["1", "3"]), ("max", ["2.5", "3"]), ("sum", ["3.5", "3"]), ("count", ["2", "1"]), ("last", ["2.5", "3"])]
)
def test_what_stands_for_several_readings(rows, how, heat):
    found = rows({**LONG, "columns": {"heat": how}, "stamp": "start"}, READINGS)

    assert [row["heat"] for row in found if row["machine"] == "m1"] == heat
    assert [row["at"] for row in found] == ["00:00:00", "00:10:00", "00:00:00"]


@pytest.mark.parametrize(("how", "x"), [("last", "n/a"), ("count", "2"), ("max", "1")])
def test_a_text_that_says_missing_is_a_reading_where_texts_are_kept(rows, how, x):
    [row] = rows({**WIDE, "columns": {"x": how}}, "machine,at,x\nm,2026-01-01T00:01,1\nm,2026-01-01T00:02,n/a\nm,2026-01-01T00:03,\n")

    assert row["x"] == x


@pytest.mark.parametrize("values", [("a", "b"), ("b", "a")])
def test_of_two_values_at_one_time_the_last_is_the_later_record(rows, values):
    text = "machine,at,x\n" + "".join(f"m,2026-01-01T00:01,{value}\n" for value in values)

    assert [row["x"] for row in rows({**WIDE, "columns": {"x": "last"}}, text)] == [values[1]]


def test_a_column_a_sensor(rows):
    found = rows(
        {**WIDE, "columns": {"heat": "max", "hum": "count"}},
        "machine,at,heat,more,hum\nm1,2026-01-01T00:01,1,x,\nm1,2026-01-01T00:02,,x,5\nm1,2026-01-01T00:12:00Z,4,x,\n",
    )

    assert found == [
        {"machine": "m1", "at": "00:10:00", "heat": "1", "hum": "1"},
        {"machine": "m1", "at": "00:20:00", "heat": "4", "hum": "0"},
    ]


def test_what_is_no_reading_keeps_its_number_and_text(rows):
    found = rows(
        {**LONG, "columns": {"heat": "mean"}},
        "machine,at,sensor,reading\nm1,2026-01-01T00:01:00,heat,1\n,2026-01-01T00:01:00,heat,1\nm1,noon,heat,hot\nm1,2026-01-01T00:02:00,noise,loud\n",
    )

    assert [row["heat"] for row in found] == ["1"]
    assert [(part, u.number, u.why) for part, u in rows.rejected] == [
        ("readings", 3, "no machine"),
        ("readings", 4, "at is not an ISO 8601 time; reading is not a finite number"),
    ]
    assert json.loads(rows.rejected[1][1].text) == {"machine": "m1", "at": "noon", "sensor": "heat", "reading": "hot"}


def test_of_a_wide_record_with_one_bad_cell_nothing_is_used(rows):
    found = rows(
        {**WIDE, "columns": {"heat": "mean", "hum": "mean"}}, "machine,at,heat,hum\nm1,2026-01-01T00:01,1,x\nm1,2026-01-01T00:01,,5\n"
    )

    assert found == [{"machine": "m1", "at": "00:10:00", "heat": None, "hum": "5"}]
    assert [u.why for _, u in rows.rejected] == ["hum is not a finite number"]


def test_a_partition_without_readings_has_its_columns(rows):
    assert rows({**LONG, "columns": {"heat": "mean"}}, "machine,at,sensor,reading\nm1,2026-01-01T00:01,noise,1\n") == []


def test_a_source_without_the_columns(rows):
    with pytest.raises(DataError, match="no column 'sensor'; it has: machine, at"):
        rows({**LONG, "columns": {"heat": "mean"}}, "machine,at\nm1,1\n")


def test_readings_that_lie_too_far_apart(rows, monkeypatch):
    monkeypatch.setattr(module, "_MOST_CELLS", 10)
    own = {**LONG, "columns": {"heat": "mean"}, "fill": {"method": "forward", "limit": 100}}

    with pytest.raises(DataError, match=r"lower fill\.limit"):
        rows(own, READINGS)


# --- steps without a reading -------------------------------------------------------------------------------------------

GAPS = """\
machine,at,heat,hum
m1,2026-01-01T00:00,1,10
m1,2026-01-01T00:40,5,
m1,2026-01-01T00:50,,20
m2,2026-01-01T23:40,7,
"""


def _cells(rows: list[dict[str, Any]], machine: str) -> dict[str, tuple[str | None, str | None]]:
    return {row["at"]: (row["heat"], row["hum"]) for row in rows if row["machine"] == machine}


def test_forward_fills_so_far_and_never_looks_ahead(rows):
    own = {**WIDE, "columns": {"heat": "last", "hum": "mean"}, "stamp": "start", "fill": {"method": "forward", "limit": 2}}

    found = rows(own, GAPS)

    assert _cells(found, "m1") == {
        "00:00:00": ("1", "10"), "00:10:00": ("1", "10"), "00:20:00": ("1", "10"), "00:40:00": ("5", None), "00:50:00": ("5", "20"),
        "01:00:00": ("5", "20"), "01:10:00": (None, "20"),
    }  # fmt: skip
    assert _cells(found, "m2") == {"23:40:00": ("7", None), "23:50:00": ("7", None)}  # no row behind the partition


def test_interpolation_is_on_the_line_between_two_readings(rows):
    own = {**WIDE, "columns": {"heat": "mean", "hum": "mean"}, "stamp": "start", "fill": {"method": "interpolate", "limit": 2}}

    found = rows(own, GAPS)

    assert _cells(found, "m1") == {
        "00:00:00": ("1", "10"), "00:10:00": ("2", "12"), "00:20:00": ("3", "14"), "00:40:00": ("5", None), "00:50:00": (None, "20"),
    }  # fmt: skip
    assert _cells(found, "m2") == {"23:40:00": ("7", None)}


_reading = st.tuples(st.sampled_from(["a", "b", "Ä"]), st.integers(-3, 40), st.sampled_from(["x", "y", "z"]), st.integers(-5, 5))


SAME_FIXTURE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@SAME_FIXTURE
@given(
    readings=st.lists(_reading, max_size=30, unique_by=lambda r: r[:3]),
    how=st.tuples(*[st.sampled_from(["mean", "min", "max", "sum", "count", "last"])] * 2),
    limit=st.integers(0, 4),
    cut=st.integers(1, 8),
    data=st.data(),
)
def test_rows_are_what_a_person_would_count(make_use_case, readings, how, limit, cut, data):  # noqa: PLR0917
    """Against a slow and plain reckoning, for any order of the records and any cut into batches."""
    written = {**LONG, "every": "4h", "columns": dict(zip(("x", "y"), how, strict=True)), "stamp": "start"}
    sensors = Sensors.model_validate(written | ({"fill": {"method": "forward", "limit": limit}} if limit else {}))
    shuffled = data.draw(st.permutations(readings))
    texts = {
        "machine": [f" {machine} " for machine, *_ in shuffled],
        "at": [(DAY + dt.timedelta(hours=hour)).isoformat() for _, hour, *_ in shuffled],
        "sensor": [name for *_, name, _ in shuffled],
        "reading": [str(value) for *_, value in shuffled],
    }
    table = pa.table({name: pa.array(values, pa.string()) for name, values in texts.items()})
    context = SourceContext(Project(None, None, None, "local"), make_use_case(), "2026-01-01")
    [records] = open_sensors(sensors, iter([_records(table, cut)]), context)
    found = [row for batch in records.batches for row in batch.rows.to_pylist()]

    assert found == list(_plainly(readings, sensors, limit))


def _plainly(readings: list[tuple[str, int, str, int]], sensors: Sensors, limit: int) -> Any:
    cells: dict[tuple[str, int], dict[str, list[tuple[int, int]]]] = {}
    for machine, hour, name, value in readings:
        if name in sensors.columns:
            cells.setdefault((machine, hour // 4), {}).setdefault(name, []).append((hour, value))
    for machine in sorted({machine for machine, _ in cells}):
        last = max(step for m, step in cells if m == machine)
        for step in range(-1, max(last, 5) + 1):
            own = cells.get((machine, step), {})
            row = {"machine": machine, "at": (DAY + dt.timedelta(hours=4 * step)).isoformat()}
            for name, how in sensors.columns.items():
                row[name] = _one(own.get(name, []), how)
                for back in range(1, limit + 1):
                    if row[name] is None:
                        row[name] = _one(cells.get((machine, step - back), {}).get(name, []), how)
            filled = [row[name] for name, how in sensors.columns.items() if how != "count"]
            if own or any(value is not None for value in filled):
                yield row


def _one(values: list[tuple[int, int]], how: str) -> str | None:
    numbers = [value for _, value in values]
    if how == "count":
        return str(len(numbers))
    if not numbers:
        return None
    result = {
        "mean": lambda: math.fsum(numbers) / len(numbers),
        "sum": lambda: float(sum(numbers)),
        "min": lambda: float(min(numbers)),
        "max": lambda: float(max(numbers)),
        "last": lambda: max(values)[1],
    }[how]()
    return str(result) if how == "last" else str(pa.scalar(result, pa.float64()).cast(pa.string()))


@SAME_FIXTURE
@given(cuts=st.tuples(st.integers(1, 9), st.integers(1, 9)), size=st.integers(1, 5))
def test_the_cut_makes_no_difference(cuts, size, make_use_case):
    text = READINGS.split()
    table = pa.table({name: pa.array([line.split(",")[i] for line in text[1:]], pa.string()) for i, name in enumerate(text[0].split(","))})
    sensors = Sensors.model_validate({**LONG, "columns": {"heat": "sum", "state": "last"}})
    context = SourceContext(Project(None, None, None, "local"), make_use_case(), "2026-01-01")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH", size)
        found = [
            pa.concat_tables([batch.rows for batch in next(open_sensors(sensors, iter([_records(table, cut)]), context)).batches])
            for cut in cuts
        ]

    assert found[0].equals(found[1])


def test_the_files_of_a_partition_are_one_series(context):
    table = pa.table({"machine": ["m"], "at": ["2026-01-01T00:01"], "heat": ["1"]})
    bad = pa.table({"machine": ["m"], "at": ["never"], "heat": ["1"]})
    sensors = Sensors.model_validate({**WIDE, "columns": {"heat": "count"}})

    found = list(open_sensors(sensors, iter([_records(table, 1, "p1"), _records(bad, 1, "p2")]), context))

    assert [records.part for records in found] == ["", "readings-p2"]


# --- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({**WIDE, "columns": {"heat": "mean"}, "every": "7h"}, "a day is no whole number of steps"),
        ({**WIDE, "columns": {"at": "mean"}}, "column 'at' is no reading"),
        ({**WIDE, "columns": {}}, "at least 1 item"),
        ({**WIDE, "columns": {"heat": "median"}}, "'mean'"),
        ({**WIDE, "columns": {"heat": "mean"}, "name": "x"}, "there is no `name`"),
        ({**WIDE, "columns": {"heat": "mean"}, "time": "machine"}, "name one column twice"),
        ({**LONG, "columns": {"heat": "mean"}, "value": None}, "needs `name` and `value`"),
        ({**WIDE, "columns": {"heat": "last"}, "fill": {"method": "interpolate"}}, "no line between two texts"),
    ],
)
def test_settings_that_do_not_fit(make_use_case, source, says):
    with pytest.raises(ValidationError) as raised:
        make_use_case(source={"path": "{partition}.csv", "sensors": source})
    assert says in str(raised.value)


def test_a_series_is_not_shuffled(make_use_case):
    source = {"path": "x.csv", "sensors": {**WIDE, "columns": {"heat": "mean"}}}

    with pytest.raises(ValidationError, match="tears a series apart"):
        make_use_case(source={**source, "replay": {}})
    columns = {"heat": {"type": "number", "role": "label"}, "machine": {"type": "string"}}
    task = {"task": "regression", "label": {"column": "heat"}, "gate": {"metric": "rmse", "floor": 1}, "split": {}}
    make_use_case(source={**source, "replay": {"seed": None}}, columns=columns, **task)


def test_readings_reach_raw(sandbox, make_use_case):
    sandbox.source("2026-01-01", "machine,at,heat,action\nm1,2026-01-01T00:01,1,buy\nm1,2026-01-01T00:02,3,view\nm1,soon,3,view\n")
    columns = {
        "machine": {"type": "string", "role": "entity"},
        "at": {"type": "timestamp", "role": "time"},
        "heat": {"type": "number"},
        "action": {"type": "string", "role": "label"},
    }
    sensors = {**WIDE, "columns": {"heat": "mean", "action": "last"}}
    use_case = make_use_case(columns=columns, source={"path": "{home}/in/{partition}.csv", "sensors": sensors})

    result = sandbox.run(ingest.main, "ingest", use_case, "2026-01-01")

    assert (result.figures["n_rows"], result.figures["n_unreadable"], result.figures["n_readings"]) == (1, 1, 4)
    raw = Tables(sandbox.stage("ingest", use_case, "2026-01-01").root).read("raw")
    assert raw.select(["machine", "at", "heat", "action"]).to_pylist() == [
        {"machine": "m1", "at": "2026-01-01T00:10:00", "heat": "2", "action": "view"}
    ]


WINDOWED = {**WIDE, "columns": {"heat": "mean", "n": "count", "state": "last"}, "window": 3}


def test_a_window_is_the_earlier_steps_of_the_same_entity(rows):
    found = rows(
        WINDOWED,
        "machine,at,heat,n,state\n"
        "m1,2026-01-01T00:01,1,1,on\nm1,2026-01-01T00:11,2,,on\nm1,2026-01-01T00:31,4,1,off\nm2,2026-01-01T00:41,9,1,on\n",
    )

    windows = [[row[f"heat_{step}"] for step in range(3)] for row in found]
    # The step from 00:20 on is no row; m2 has no past, though m1's last step lies just before its first.
    assert windows == [[None, None, "1"], [None, "1", "2"], ["2", None, "4"], [None, None, "9"]]
    assert [[row[f"n_{step}"] for step in range(3)] for row in found] == [
        [None, None, "1"],
        [None, "1", "0"],
        ["0", None, "1"],
        [None, None, "1"],
    ]
    assert not any(name.startswith("state_") for name in found[0])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.integers(0, 99)), min_size=1, unique_by=lambda r: r[:2]),
    st.integers(2, 6),
)
def test_a_windows_columns_are_the_rows_of_those_steps(rows, readings, window):
    text = "machine,at,heat\n" + "".join(f"{who},2026-01-01T{step // 6:02d}:{step % 6}0:00,{heat}\n" for who, step, heat in readings)
    found = rows({**WIDE, "columns": {"heat": "mean"}, "window": window, "stamp": "start"}, text)

    known = {(who, step): str(heat) for who, step, heat in readings}
    for row in found:
        own = int(row["at"][:2]) * 6 + int(row["at"][3])
        expected = [known.get((row["machine"], own - back)) for back in reversed(range(window))]
        assert [row[f"heat_{step}"] for step in range(window)] == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"columns": {"state": "last"}}, "remove it"),
        ({"columns": {"heat": "mean", "heat_1": "mean"}}, "would be called 'heat_1'"),
    ],
)
def test_windows_that_can_not_be_made(changes, says):
    with pytest.raises(ValidationError, match=says):
        Sensors.model_validate({**WINDOWED, **changes})
