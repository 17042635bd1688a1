import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines_lib.data.labelling.events import events, follows

COLUMNS = {
    "machine": {"type": "string", "role": "entity"},
    "at": {"type": "timestamp", "role": "time"},
    "heat": {"type": "number"},
    "failure": {"type": "integer", "role": "label"},
}
START = dt.datetime(2026, 1, 1)
FIRST, LAST = "2026-01-01", "2026-01-03"


@pytest.fixture
def machines(make_use_case):
    label = {
        "event_within": {"column": "failure", "values": [1], "within": "36h", "follows": "fails", "otherwise": "runs"},
        "positive": "fails",
    }
    return make_use_case(columns=COLUMNS, label=label)


def table(rows):
    """Rows of (machine, hours after the start, failure)."""
    machine, hours, failure = zip(*rows, strict=True) if rows else ((), (), ())
    moments = [None if h is None else START + dt.timedelta(hours=h) for h in hours]
    columns = {"machine": pa.array(machine, pa.string()), "at": pa.array(moments, pa.timestamp("us"))}
    return pa.table({**columns, "failure": pa.array(failure, pa.int64())})


def labels(use_case, rows, of=None):
    known = events([table(rows)], use_case, FIRST, LAST)
    return follows(table(of or rows), use_case, known).to_pylist()


def test_an_event_that_follows_in_time_is_one(machines):
    assert labels(machines, [("a", 0, 0), ("a", 30, 1)])[0] == "fails"


def test_an_event_at_the_end_of_the_window_counts_and_one_after_it_does_not(machines):
    assert labels(machines, [("a", 0, 0), ("a", 36, 1)])[0] == "fails"
    assert labels(machines, [("a", 0, 0), ("a", 36.001, 1)])[0] == "runs"


def test_the_own_event_of_a_row_does_not_count(machines):
    assert labels(machines, [("a", 3, 1), ("a", 3, 0)]) == ["runs", "runs"]
    assert labels(machines, [("a", 3, 1), ("a", 4, 1)]) == ["fails", "runs"]


def test_only_the_own_machine_counts(machines):
    assert labels(machines, [("a", 0, 0), ("b", 1, 1)])[0] == "runs"


def test_without_machine_or_time_there_is_no_label(machines):
    assert labels(machines, [(None, 0, 0), ("a", None, 0), (None, 1, 1), ("a", 1, 1)])[:2] == [None, None]


def test_a_row_whose_window_is_not_wholly_known_has_no_label_though_an_event_is_in_it(machines):
    # Three days are known, so the last moment whose 36 hours are is just before noon of the second.
    rows = [("a", -0.5, 0), ("a", 35.9, 0), ("a", 36, 0), ("a", 40, 1)]

    assert labels(machines, rows)[:3] == [None, "fails", None]


def test_no_event_at_all(machines):
    assert labels(machines, [("a", 0, 0), ("b", 5, None)]) == ["runs", "runs"]
    assert labels(machines, [], of=[("a", 0, 0)]) == ["runs"]


@pytest.mark.parametrize(
    ("type_", "values", "column", "expected"),
    [
        ("boolean", [True], pa.array([False, True]), "yes"),
        ("number", [1.0, 2.5], pa.array([0.0, 2.5]), "yes"),
        ("string", ["broken"], pa.array(["fine", "broken"]), "yes"),
        ("string", [7], pa.array(["7.0", "seven"]), "no"),
        ("integer", [1], pa.array([None, None], pa.int64()), "no"),
    ],
)
def test_an_event_is_told_by_values_of_any_type(make_use_case, type_, values, column, expected):
    columns = {**COLUMNS, "failure": {"type": type_, "role": "label"}}
    use_case = make_use_case(
        columns=columns,
        label={
            "event_within": {"column": "failure", "values": values, "within": "1d", "follows": "yes", "otherwise": "no"},
            "positive": "yes",
        },
    )
    rows = table([("a", 0, 0), ("a", 1, 0)]).set_column(2, "failure", column)

    assert follows(rows, use_case, events([rows], use_case, FIRST, LAST)).to_pylist()[0] == expected


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", None]),
        st.one_of(st.none(), st.integers(-10 * 4, 80 * 4).map(lambda quarter: quarter / 4)),
        st.sampled_from([0, 0, 1, None]),
    ),
    max_size=25,
)


def by_definition(rows, row):
    machine, at, _ = row
    if machine is None or at is None or at < 0 or at + 36 >= 72:
        return None
    return "fails" if any(m == machine and t is not None and f == 1 and at < t <= at + 36 for m, t, f in rows) else "runs"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(ROWS)
def test_the_labels_are_those_of_the_definition(machines, rows):
    assert labels(machines, rows) == [by_definition(rows, row) for row in rows]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.randoms(use_true_random=False), st.integers(0, 25))
def test_neither_order_nor_cut_of_the_rows_matters(machines, rows, random, cut):
    shuffled = random.sample(rows, len(rows))
    known = events([table(shuffled[:cut]), table(shuffled[cut:])], machines, FIRST, LAST)
    parts = [follows(table(part), machines, known).to_pylist() for part in (rows[:cut], rows[cut:])]

    assert [label for part in parts for label in part] == labels(machines, rows)
