import datetime as dt
from itertools import islice
from typing import get_args

import pytest
from croniter import croniter
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import METRICS, Source, Sql, Task, UseCase
from pipelines_lib.use_case.rules import FieldErrors, ticks_once


def problems(make_use_case, **changes) -> dict[str, str]:
    """Dotted field to message of each rule between parts that is broken."""
    with pytest.raises(ValidationError) as caught:
        make_use_case(**changes)
    [error] = caught.value.errors()
    cause = error["ctx"]["error"]
    assert isinstance(cause, FieldErrors)
    return {".".join(map(str, field)): message for field, message in cause.problems}


COLUMNS = {"price": {"type": "number"}, "action": {"type": "string", "role": "label"}}
ROWS = {"split": {"by": "row"}, "columns": COLUMNS}


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"end": "2025-12-31"}, "end", "lies before the first"),
        ({"partition": "hour", "schedule": {"data": "0 2 * * *"}}, "schedule.data", "write one minute of every hour, such as '5 * * * *'"),
        ({"schedule": {"monitoring": "0 4 * * 1"}}, "schedule.monitoring", "write one minute of every day"),
        (ROWS | {"columns": {**COLUMNS, "Price": {"type": "number"}}}, "columns.Price", "'price' and 'Price' differ in case alone"),
        ({"label": {"column": "deed", "positive": "buy"}}, "label.column", "column 'deed' is not declared; declared are: id, who"),
        ({"label": {"column": "colour", "positive": "buy"}}, "columns.colour.role", "would leak it; set `role: label`"),
        ({"label": {"column": "action"}}, "label", "needs `positive`"),
        ({"task": "multiclass", "gate": {"metric": "accuracy", "floor": 0.1}}, "label.positive", "remove it"),
        (
            {"label": {"column": "action", "map": {"buy": "yes", "view": "no"}, "positive": "buy"}},
            "label.positive",
            "not among the classes",
        ),
        (
            ROWS | {"task": "regression", "label": {"column": "action"}, "gate": {"metric": "rmse", "floor": 1}},
            "columns.action.type",
            "set `type: number`",
        ),
        ({"columns": {"action": {"type": "string", "role": "label"}}, "split": {"by": "row"}}, "columns", "nothing to learn from"),
        (ROWS | {"columns": {**COLUMNS, "at": {"type": "timestamp"}}}, "columns.at.role", "`role: time` or `role: other`"),
        (
            ROWS | {"columns": {**COLUMNS, "a": {"type": "string", "role": "entity"}, "b": {"type": "string", "role": "entity"}}},
            "columns.b.role",
            "there can be one",
        ),
        ({"split": {"by": "entity"}, "columns": COLUMNS}, "split.by", "needs a column with `role: entity`"),
        ({"split": {"validation": 0.4, "test": 0.45}}, "split", "lower them"),
        ({"split": {"by": "group", "group": "shop"}}, "split.group", "column 'shop' is not declared"),
        ({"split": {"by": "group", "group": "action"}}, "split.group", "name another column"),
        (
            {
                "split": {"by": "row", "stratify": True},
                "task": "regression",
                "label": {"column": "action"},
                "gate": {"metric": "rmse", "floor": 1},
            },
            "split.stratify",
            "no classes to share out",
        ),
        (
            {"split": {"by": "time", "gap": 1}, "label": {"column": "action", "positive": "buy", "horizon": 2}},
            "split.gap",
            "remove `gap`, or raise it to 2",
        ),
        ({"gate": {"metric": "rmse", "floor": 1}}, "gate.metric", "use one of roc_auc"),
        ({"clean": [{"deduplicate": ["idd"]}]}, "clean.0", "column 'idd' is not declared"),
        (
            {"quality": {"expectations": [{"expect_column_values_to_not_be_null": {"column": "prize"}}]}},
            "quality.expectations.0.expect_column_values_to_not_be_null",
            "column 'prize' is not declared",
        ),
        (
            {"quality": {"expectations": [{"expect_compound_columns_to_be_unique": {"column_list": ["id", "at"]}}]}},
            "quality.expectations.0.expect_compound_columns_to_be_unique",
            "column 'at' is not declared",
        ),
    ],
)
def test_a_rule_between_two_parts_names_the_field_and_the_remedy(make_use_case, changes, field, says):
    found = problems(make_use_case, **changes)

    assert says in found[field]


def test_every_broken_rule_is_told_at_once(make_use_case):
    found = problems(make_use_case, end="2020-01-01", gate={"metric": "mae", "floor": 1}, clean=[{"drop_missing": ["nothing"]}])

    assert set(found) == {"end", "gate.metric", "clean.0"}


SQL = {"connection": "shop_db", "query": "SELECT * FROM t WHERE at < :end", "order_by": ["id"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Shop"}, "pattern"),
        ({"schedule": {"data": "every day"}}, "is not a schedule; write a cron expression"),
        ({"schedule": {"data": "@daily"}}, "is not a schedule"),
        ({"schedule": {"data": "61 2 * * *"}}, "is not a schedule"),
        ({"source": {"path": "x.csv"}}, "path must contain {partition}"),
        ({"source": {"path": "{year}/{month}/*.csv"}}, "several partitions would be given the same files, since the path names no {day}"),
        ({"source": {"path": "{year}/{month}/{day}.csv"}, "partition": "hour"}, "names no {hour}"),
        ({"source": {"path": "{partition}.csv", "replay": {}}}, "must not contain {partition}"),
        ({"source": {}}, "names none; set one of path, sql, http"),
        ({"source": {"path": "{partition}.csv", "sql": SQL}}, "names path and sql"),
        ({"source": {"sql": SQL, "land": True}}, "`land` is about a file"),
        ({"source": {"sql": {**SQL, "query": "SELECT * FROM t"}}}, "names none of :partition, :start and :end"),
        ({"source": {"sql": {**SQL, "query": "DELETE FROM t WHERE at < :end"}}}, "a source only reads"),
        ({"source": {"sql": {**SQL, "query": "SELECT :end, :day"}}}, "names :day, which nothing fills in; known are end, partition, start"),
        ({"source": {"sql": {**SQL, "params": {"x": 1}}}}, "parameter 'x' is not in the query"),
        ({"source": {"sql": {**SQL, "params": {"end": 1}}}}, "is filled in with the partition's own; rename it"),
        ({"source": {"sql": {**SQL, "order_by": []}}}, "at least 1 item"),
        ({"source": {"sql": {**SQL, "timeout": "10 parsecs"}}}, "is not a length of time; write a whole number and its unit"),
        ({"source": {"sql": {**SQL, "connection": "Shop-DB"}}}, "pattern"),
        ({"source": {"http": {"url": "https://api.example.com/x"}}}, "neither url nor params hold"),
        ({"source": {"http": {"url": "api.example.com/{partition}"}}}, "is not an address; write it with its scheme"),
        ({"source": {"http": {"url": "/{partition}"}}}, "is not an address"),
        ({"source": {"http": {"url": "https://h/{day}", "headers": {"authorization": "x"}}}}, "would put a secret into this file"),
        ({"source": {"http": {"url": "https://h/{day}", "pages": {"by": "cursor"}}}}, "`by: cursor` needs it"),
        ({"source": {"http": {"url": "https://h/{day}", "pages": {"by": "page", "next": "x"}}}}, "the others have none"),
        ({"source": {"http": {"url": "https://h/{day}", "pages": {"by": "link", "param": "x"}}}}, "sets no parameter"),
        ({"source": {"http": {"url": "https://h/{day}", "pages": {"size": {"a": 1, "b": 2}}}}}, "at most 1 item"),
        ({"columns": {"a b": {"type": "number"}}}, "starts with a letter; rename it"),
        ({"columns": {"row_id": {"type": "number"}}}, "keeps this name for itself"),
        ({"columns": {"Row_ID": {"type": "number"}}}, "keeps this name for itself"),
        ({"source": {"path": "{partition}.csv", "csv": {"delimiter": "，"}}}, "one ASCII character that is no line end and no quote"),
        ({"source": {"path": "{partition}.csv", "csv": {"delimiter": "\n"}}}, "one ASCII character that is no line end and no quote"),
        ({"source": {"path": "{partition}.csv", "csv": {"delimiter": '"'}}}, "one ASCII character that is no line end and no quote"),
        ({"quality": {"expectations": [{"expect_a": {}, "expect_b": {}}]}}, "is not one expectation"),
        ({"quality": {"expectations": [{"column_is_fine": {}}]}}, "is not one expectation"),
        ({"clean": [{"fill": {"price": 0}, "deduplicate": ["id"]}]}, "a cleaning step does one thing"),
        ({"clean": [{}]}, "names none"),
        ({"monitoring": {"need": 3, "of": 2}}, "can never be met"),
        ({"deployment": {"approve": {"by": []}}}, "`by` names nobody, so nobody could say yes"),
        ({"monitoring": {"answers": "batch"}}, "set `deployment.batch: true`, or write `answers: service`"),
        ({"split": {"by": "group"}}, "needs `group`"),
        ({"split": {"by": "entity", "group": "who"}}, "`group` goes with `by: group`"),
        ({"split": {"by": "entity", "stratify": True}}, "their classes can't be shared out"),
        ({"split": {"by": "row", "gap": 1}}, "`gap` goes with `by: time`"),
        ({"split": {"by": "time", "test_from": "2026-02-01"}}, "go together"),
        ({"split": {"by": "time", "validation_from": "2026-02-01", "test_from": "2026-02-01"}}, "no earlier than test"),
        ({"training": {"model": {"hidden": []}}}, "at least 1 item"),
    ],
)
def test_a_rule_of_one_part(make_use_case, changes, says):
    with pytest.raises(ValidationError) as caught:
        make_use_case(**changes)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("select a::date from t where b = :end", {"end"}),
        ("-- first\n/* :no,\n but: yes */ WITH x AS (SELECT 1) SELECT * FROM x WHERE k = :no;", {"no"}),
        ("((SELECT '12\\:30', :start))", {"start"}),
    ],
)
def test_the_names_of_a_query(make_use_case, query, names):
    sql = {**SQL, "query": query, "params": dict.fromkeys(names - {"start", "end"}, 1)}
    source = Source.model_validate({"sql": sql})

    assert source.sql.names() == names
    assert source.by_partition() == bool(names & {"start", "end"})


def test_the_connections_a_stage_needs(make_use_case):
    use_case = make_use_case(source={"sql": SQL})

    assert use_case.connections("ingest") == ["shop_db"]
    assert use_case.connections("validate") == []
    assert make_use_case().connections("ingest") == []


@pytest.mark.parametrize("written", ["30s", "10min", "24h", "7d", "90s", "36h"])
def test_a_length_of_time_is_written_as_it_was_read(make_use_case, written):
    sql = Sql.model_validate({**SQL, "timeout": written})

    assert Sql.model_validate(sql.model_dump(mode="json")) == sql
    assert Sql.model_validate(sql.model_dump()) == sql
    assert {"24h": "1d"}.get(written, written) == sql.model_dump(mode="json")["timeout"]


def test_null_leaves_a_dag_without_schedule(make_use_case):
    assert make_use_case(schedule={"data": None}).schedule.data is None


def test_an_hourly_use_case_runs_every_hour_where_nothing_else_is_said(make_use_case):
    assert make_use_case().schedule.data == "0 2 * * *"
    assert make_use_case(partition="hour").schedule.data == "5 * * * *"
    assert make_use_case(partition="hour").schedule.monitoring == "35 * * * *"
    own = make_use_case(partition="hour", schedule={"data": None, "monitoring": "50 * * * *"}).schedule
    assert (own.data, own.monitoring) == (None, "50 * * * *")


FIELDS = (
    st.sampled_from(["0", "59", "5,5", "*/60", "*", "*/30", "0-1"]),
    st.sampled_from(["*", "0-23", "2", "*/6", "1,2"]),
    st.sampled_from(["*", "1-31", "*/1", "1-30", "L"]),
    st.sampled_from(["*", "1-12", "1-11"]),
    st.sampled_from(["*", "0-6", "sun-sat", "1-5", "1#1"]),
)


@settings(deadline=None)
@given(st.tuples(*FIELDS).map(" ".join), st.sampled_from(["day", "hour"]))
@example("5 * * * *", "hour")
@example("0 2 1-31 * 0-6", "day")
@example("0 2 * 1-11 *", "day")
@example("0 2 1-30 * *", "day")
def test_a_schedule_that_fits_ticks_once_a_partition(cron, partition):
    if not ticks_once(cron, partition):
        return
    # A year of days; of hours, a month.
    n, length = (366, dt.timedelta(days=1)) if partition == "day" else (750, dt.timedelta(hours=1))
    start = dt.datetime(2026, 1, 1)
    ticks = islice(croniter(cron, start - dt.timedelta(minutes=1)).all_next(dt.datetime), n)

    assert [(tick - start) // length for tick in ticks] == list(range(n))


@pytest.mark.parametrize(
    ("cron", "partition"),
    [("5 * * * *", "hour"), ("*/60 0-23 1-31 * 0-6", "hour"), ("0 2 * * *", "day"), ("59 23 */1 1-12 sun-sat", "day")],
)
def test_however_it_is_written(cron, partition):
    assert ticks_once(cron, partition)


def test_settings_are_frozen(make_use_case):
    with pytest.raises(ValidationError):
        make_use_case().title = "Other"


@given(st.dates(dt.date(1970, 1, 1), dt.date(2200, 1, 1)), st.integers(-500, 500), st.sampled_from(["day", "hour"]))
def test_shifting_there_and_back_is_nowhere(day, by, partition):
    use_case = UseCase.model_construct(name="x", partition=partition, start=day)
    key = dt.datetime.combine(day, dt.time(5 if partition == "hour" else 0)).strftime(use_case.key_format)

    assert use_case.shift(use_case.shift(key, by), -by) == key
    assert use_case.partition_time(use_case.shift(key, by)) - use_case.partition_time(key) == by * use_case.partition_step


@pytest.mark.parametrize("key", ["2026-1-1", "2026-02-30", "2026-01-01T00", "", "latest", "2026-01-01 "])
def test_what_is_no_partition_key_is_refused_with_an_example(make_use_case, key):
    with pytest.raises(ConfigError, match="write it like 2026-01-01"):
        make_use_case().partition_time(key)


def test_the_last_day_of_a_replay_is_where_its_file_ends(make_use_case):
    assert make_use_case().last_day is None
    assert make_use_case(end="2026-02-01").last_day == dt.date(2026, 2, 1)
    assert make_use_case(source={"path": "x.csv", "replay": {"partitions": 14}}).last_day == dt.date(2026, 1, 14)


JOINED = {"name": "people", "source": {"path": "people.csv"}, "on": ["who"], "columns": ["age"]}
SERIES = {
    "layout": "wide",
    "entity": "who",
    "time": "when",
    "columns": dict.fromkeys(("id", "price", "count", "colour", "action"), "last"),
}


def test_the_data_hash_follows_what_decides_a_training_row(make_use_case):
    same = make_use_case(title="Other", training={"epochs": 1}, gate={"metric": "roc_auc", "floor": 0.9}, monitoring={"psi": 0.3})
    others = [
        make_use_case(clean=[{"deduplicate": ["id"]}]),
        make_use_case(split={"by": "entity", "seed": 1}),
        make_use_case(label={"column": "action", "positive": "buy"}),
        make_use_case(joins=[JOINED]),
        make_use_case(joins=[{**JOINED, "asof": {"time": "at", "within": "7d"}}]),
        *(make_use_case(source={"path": "{partition}.csv", "sensors": SERIES | {"every": every}}) for every in ("1h", "2h")),
    ]
    elsewhere = {**JOINED, "source": {"path": "elsewhere.csv"}}

    assert same.data_hash() == make_use_case().data_hash()
    assert make_use_case(joins=[elsewhere]).data_hash() == make_use_case(joins=[JOINED]).data_hash()
    assert len({make_use_case().data_hash(), *(other.data_hash() for other in others)}) == 1 + len(others)


def test_every_task_has_metrics_of_its_own():
    assert {task: len(metrics) > 0 for task, metrics in METRICS.items()} == dict.fromkeys(get_args(Task), True)
