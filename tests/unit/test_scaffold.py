import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pipelines_lib.config import Project, load_use_case
from pipelines_lib.errors import BadInput, DataError
from pipelines_lib.scaffold import scaffold
from pipelines_lib.scaffold.expectations import rounded_out
from pipelines_lib.scaffold.names import column_names, snake_case
from pipelines_lib.scaffold.yaml_text import comment, flow, quoted, scalar
from pipelines_lib.use_case import RESERVED_COLUMNS, Csv, UseCase

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(folder=tmp_path, home=tmp_path / "home", use_cases=tmp_path / "use_cases", profile_name="local")


def new(project: Project, text: str, target: str, name: str = "case") -> UseCase:
    path = project.folder / "data.csv"
    path.write_text(text, encoding="utf-8")
    return load_use_case(scaffold(project, name, path, target))


def table(columns: dict[str, list[object]], header: bool = True) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()


N = 120
AGES = [20 + (7 * i) % 50 for i in range(N)]
YES_NO = ["yes" if i % 3 == 0 else "no" for i in range(N)]


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Air temperature [K]", "air_temperature_k"),
        ("default.payment.next.month", "default_payment_next_month"),
        ("nameOrig", "name_orig"),
        ("Größe", "große"),
        ("née", "nee"),
        ("年龄", "年龄"),
        ("2019", "c_2019"),
        ("[]", "c"),
        ("label", "label_column"),
        ("Partition Key", "partition_key_column"),
    ],
)
def test_names_are_snake_case(source, name):
    assert snake_case(source) == name


@given(st.lists(st.text(max_size=80), unique=True, max_size=8))
def test_names_are_unique_and_allowed(sources):
    names = column_names(sources)

    assert list(names) == sources
    assert len(set(names.values())) == len(sources)
    for name in names.values():
        assert name not in RESERVED_COLUMNS
        UseCase._column_names({name: None})


# --- text that reads back ------------------------------------------------------------------------------------------


@given(st.text())
@settings(max_examples=300)
def test_any_text_reads_back_as_itself(text):
    assert yaml.safe_load(f"a: {flow([text, {text: text}])}{comment(text)}\nb: 1") == {"a": [text, {text: text}], "b": 1}
    assert yaml.safe_load(quoted(text)) == text


@pytest.mark.parametrize(
    "text", ["yes", "No", "01", "1", "1e5", "null", "~", "", "2026-01-01", "年龄", 'a"b', "a: b", "# x", "[1]", "0x1f", "1_000"]
)
def test_text_that_looks_like_something_else_stays_text(text):
    assert yaml.safe_load(scalar(text)) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back_as_themselves(number):
    assert yaml.safe_load(scalar(number)) == number


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12), st.booleans())
def test_bounds_move_outwards_only(low, distance, whole):
    high = low + distance
    assume(distance > 1e-6 * abs(low))
    bounds = rounded_out(low, high, whole=whole)

    slack = max(1.0 if whole else 0.0, 0.11 * (high - low)) + 1e-9 * max(abs(low), abs(high), 1e-6)
    rounding = 1e-9 * (abs(low) + distance)
    assert low - slack <= bounds[0] <= low + rounding
    assert high - rounding <= bounds[1] <= high + slack
    assert not whole or all(isinstance(bound, int) for bound in bounds)


# --- what is inferred ----------------------------------------------------------------------------------------------


def test_types_roles_and_missing_values(project):
    use_case = new(
        project,
        table(
            {
                "ID": list(range(1, N + 1)),
                "customer_id": [f"c{i // 4}" for i in range(N)],
                "When": [f"2026-01-{1 + (i * 11) % 28:02d} 10:00" for i in range(N)],
                "age": AGES,
                "income": ["?" if i % 10 == 0 else 1000.5 + i for i in range(N)],
                "zip": [f"0{1000 + i % 5}" for i in range(N)],
                "Member": ["true" if i % 2 else "false" for i in range(N)],
                "said": [f"I would like to speak to number {i} now" for i in range(N)],
                "constant": ["x"] * N,
                "code": [f"k-{i}" for i in range(N)],
                "city": ["" if i == 3 else "北京" if i % 2 else "上海" for i in range(N)],
                "Bought": YES_NO,
            }
        ),
        "Bought",
    )

    described = {name: (c.type, c.role, c.nullable) for name, c in use_case.columns.items()}
    assert described == {
        "id": ("integer", "key", False),
        "customer_id": ("string", "entity", False),
        "when": ("timestamp", "time", False),
        "age": ("integer", "feature", False),
        "income": ("number", "feature", True),
        "zip": ("string", "feature", False),
        "member": ("boolean", "feature", False),
        "said": ("text", "feature", False),
        "constant": ("string", "other", False),
        "code": ("string", "other", False),
        "city": ("string", "feature", True),
        "bought": ("string", "label", False),
    }
    assert use_case.columns["when"].source == "When"
    assert use_case.task == "binary"
    assert use_case.label.positive == "yes"
    assert use_case.split.by == "entity"
    assert [step.to_missing for step in use_case.clean if step.to_missing] == [{"income": ["?"]}]
    assert [step.deduplicate for step in use_case.clean if step.deduplicate] == [["id"]]
    sets = {
        e["expect_column_values_to_be_in_set"]["column"]: e["expect_column_values_to_be_in_set"]["value_set"]
        for e in use_case.quality.expectations
        if "expect_column_values_to_be_in_set" in e
    }
    assert sets["zip"] == ["01000", "01001", "01002", "01003", "01004"]
    assert sets["bought"] == ["no", "yes"]


@pytest.mark.parametrize(
    ("values", "task", "metric", "positive"),
    [
        (["M" if i % 3 == 0 else "B" for i in range(N)], "binary", "roc_auc", "M"),
        ([int(i % 4 != 0) for i in range(N)], "binary", "roc_auc", "1"),
        (["0.0" if i % 4 else "1.0" for i in range(N)], "binary", "roc_auc", "1.0"),
        ([1 + (i % 4 == 0) for i in range(N)], "binary", "roc_auc", "2"),
        (["01" if i % 4 else "02" for i in range(N)], "binary", "roc_auc", "02"),
        (["red", "green", "blue"] * (N // 3), "multiclass", "accuracy", None),
        (["red" if i % 10 else ("green", "blue")[i // 10 % 2] for i in range(N)], "multiclass", "macro_f1", None),
        ([2, 3, 11, 5] * (N // 4), "multiclass", "accuracy", None),
        ([i * 1.5 for i in range(N)], "regression", "rmse", None),
        (list(range(N)), "regression", "rmse", None),
        ([3] * 4 + [4] * 20 + [5] * 50 + [6] * 36 + [7] * 10, "regression", "rmse", None),
    ],
)
def test_the_task_follows_from_the_target(project, values, task, metric, positive):
    ages = [(i * 37) % 101 + 0.5 for i in range(N)]
    use_case = new(project, table({"age": ages, "target": values}), "target")

    assert (use_case.task, use_case.gate.metric, use_case.label.positive) == (task, metric, positive)
    assert use_case.columns["target"].type == ("string" if task != "regression" else "number" if "." in str(values[1]) else "integer")


def test_the_floor_lies_beyond_what_knowing_nothing_gives(project):
    noise = [(i * 37) % 101 + 0.5 for i in range(N)]
    ceiling = new(project, table({"noise": noise, "target": [i * 1.5 for i in range(N)]}), "target", "numbers").gate.floor
    deviation = (sum((i * 1.5 - 89.25) ** 2 for i in range(N)) / N) ** 0.5
    floor = new(project, table({"noise": noise, "target": ["a", "a", "b", "c"] * (N // 4)}), "target", "classes").gate.floor

    assert 0.8 * deviation < ceiling < deviation
    assert 0.5 < floor < 0.6


def test_a_file_without_header_counts_its_columns(project):
    use_case = new(project, table({"a": AGES, "b": YES_NO}, header=False), "2")

    assert not use_case.source.csv.header
    assert list(use_case.columns) == ["c0", "c1"]
    assert use_case.label.column == "c1"


def test_a_file_of_words_without_header_is_told_by_their_return(project):
    use_case = new(project, table({"a": ["A1", "A2", "A3", "A4"] * 30, "b": YES_NO}, header=False), "-1")

    assert not use_case.source.csv.header
    assert use_case.label.column == "c1"


def test_a_header_of_numbers_is_told_by_the_target(project):
    use_case = new(project, table({"2019": AGES, "bought": YES_NO}), "bought")

    assert use_case.source.csv.header
    assert use_case.columns["c_2019"].source == "2019"


def test_rows_in_the_order_of_their_time_are_replayed_and_split_by_it(project):
    columns = {"at": [f"2026-01-{1 + i // 5:02d}" for i in range(N)], "age": AGES, "bought": YES_NO}
    use_case = new(project, table(columns), "bought")

    assert use_case.split.by == "time"
    assert use_case.source.replay.seed is None


def test_numbers_in_scientific_notation_are_numbers(project):
    assert new(project, table({"x": ["1e+05" if i == 7 else i for i in range(N)], "y": YES_NO}), "y").columns["x"].type == "number"


def test_encoding_and_delimiter_are_written_where_they_must_be(project):
    path = project.folder / "data.csv"
    path.write_bytes(table({"größe": AGES, "tÿp": ["süß" if v == "yes" else "bäh" for v in YES_NO]}).replace(",", ";").encode("utf-16"))

    use_case = load_use_case(scaffold(project, "case", path, "tÿp"))

    assert (use_case.source.csv.encoding, use_case.source.csv.delimiter) == ("utf-16", ";")
    assert use_case.columns["typ"].source == "tÿp"


# --- leakage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz", "data.parquet"])
def test_other_formats_than_csv(project, name):
    rows = [{"age": age, "bought": said} for age, said in zip(AGES, YES_NO, strict=True)]
    path = project.folder / name
    if name.endswith("parquet"):
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)

    use_case = load_use_case(scaffold(project, "case", path, "bought"))

    assert (use_case.source.path, use_case.source.csv) == (name, Csv())
    assert use_case.columns["age"].type == "integer"


def test_lines_above_the_header_are_written_down(project):
    use_case = new(project, "Customers of 2025\n\n" + table({"age": AGES, "bought": YES_NO}), "bought")

    assert use_case.source.csv.skip == 1
    assert list(use_case.columns) == ["age", "bought"]


def others(use_case: UseCase) -> set[str]:
    return set(use_case.columns_with("other"))


def test_what_gives_the_target_away_is_set_aside(project):
    n = 600
    failed = [i % 10 == 0 for i in range(n)]
    text = table(
        {
            "speed": [(i * 37) % 101 for i in range(n)],
            "amount": [(i * 13) % 211 + 0.5 for i in range(n)],
            "failed": [int(f) for f in failed],
            "in_words": ["broken" if f else "fine" for f in failed],
            "wear": [int(f and i % 20 == 0) for i, f in enumerate(failed)],
            "heat": [int(f and i % 30 == 10) for i, f in enumerate(failed)],
            "chance": [int(i % 7 == 0) for i in range(n)],
            "balance": [(i * 13) % 211 + 0.5 if f else i + 0.25 for i, f in enumerate(failed)],
        }
    )
    notes: list[str] = []
    (project.folder / "data.csv").write_text(text)
    use_case = load_use_case(scaffold(project, "case", project.folder / "data.csv", "failed", notes.append))

    assert {"in_words", "wear", "heat", "balance"} <= others(use_case)
    assert {"speed", "amount"} <= set(use_case.features())
    assert sum("may leak the target" in note for note in notes) >= 4


def test_a_number_that_is_the_target_in_other_units_is_set_aside(project):
    celsius = [(i * 37) % 101 / 3 for i in range(N)]
    use_case = new(project, table({"x": AGES, "kelvin": [c + 273.15 for c in celsius], "celsius": celsius}), "celsius")

    assert others(use_case) == {"kelvin"}


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target", "says"),
    [
        (table({"age": AGES, "bought": YES_NO}), "brought", "did you mean 'bought'"),
        (table({"age": AGES, "bought": YES_NO}), "3", "a number from 1 to 2"),
        (table({"age": AGES, "bought": YES_NO}), "0", "has no column '0'"),
        (table({"age": AGES, "same": ["x"] * N}), "same", "one value in every row"),
        (table({"age": AGES, "none": [""] * N}), "none", "no value at all"),
        (table({"age": AGES, "said": [f"words {i} and more" for i in range(N)]}), "said", "too few rows of each"),
        (table({"age": AGES, "at": [f"2026-01-01 10:{i % 60:02d}" for i in range(N)]}), "at", "is a time"),
        (table({"age": AGES, "huge": [f"{i + 1}e300" for i in range(N)]}), "huge", "spread"),
        (table({"age": AGES, "one": ["1", "1.0", "1.00"] * (N // 3)}), "one", "one value in every row"),
        (table({"same": ["x"] * N, "bought": YES_NO}), "bought", "no column is left"),
        ("", "bought", "empty"),
        ("a,b\n", "b", "no rows"),
    ],
)
def test_says_why_it_refuses(project, text, target, says):
    with pytest.raises(DataError, match=says):
        new(project, text, target)

    assert list(project.use_cases.glob("*")) == []


def test_a_missing_file_and_a_bad_name_are_refused(project):
    with pytest.raises(DataError, match="there is no file"):
        scaffold(project, "case", project.folder / "none.csv", "x")
    with pytest.raises(BadInput, match="try 'my_case'"):
        scaffold(project, "My Case", project.folder / "none.csv", "x")


def test_nothing_is_overwritten(project):
    folder = project.use_cases / "case"
    folder.mkdir(parents=True)
    with pytest.raises(BadInput, match="exists already"):
        new(project, table({"age": AGES, "bought": YES_NO}), "bought")

    assert list(folder.iterdir()) == []


# --- the whole -----------------------------------------------------------------------------------------------------


def test_paths_are_stored_as_the_project_sees_them(tmp_path):
    project = Project(folder=tmp_path / "a" / "main", home=tmp_path / "home", use_cases=tmp_path / "use_cases", profile_name="local")
    text = table({"age": AGES, "bought": YES_NO})
    stored = []
    for place, folder in enumerate(("a/main/data", "a/shared", "b")):
        path = tmp_path / folder / "x.csv"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        stored.append(load_use_case(scaffold(project, f"case{place}", path, "bought")).source.path)

    assert stored == ["data/x.csv", "../shared/x.csv", str(tmp_path / "b" / "x.csv")]


def test_same_file_same_text(project):
    text = table({"age": AGES, "bought": YES_NO})
    new(project, text, "bought", "case_a")
    new(project, text, "bought", "case_b")

    first, second = ((project.use_cases / name / "use_case.yaml").read_text() for name in ("case_a", "case_b"))
    assert first.replace("case_a", "case_b").replace("Case a", "Case b") == second


CELLS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False).map(str),
    st.sampled_from(["", "?", "NA", "yes", "01", "2026-01-01", "true", "****", "年龄", "1e999"]),
)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=3, max_size=20), st.sampled_from(["1", "2", "3", "-1"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_the_file_holds_the_settings_load_or_it_is_refused(tmp_path_factory, rows, target):
    folder = tmp_path_factory.mktemp("any")
    project = Project(folder=folder, home=folder / "home", use_cases=folder / "use_cases", profile_name="local")
    out = io.StringIO()
    csv.writer(out).writerows([("α first", "second", "label"), *(rows * 5)])
    (folder / "data.csv").write_text(out.getvalue(), encoding="utf-8", newline="")
    try:
        written = scaffold(project, "case", folder / "data.csv", target)
    except BadInput:
        assert list(project.use_cases.glob("*")) == []
        return
    assert load_use_case(written).name == "case"


FILES = {
    "credit_default": ("default.payment.next.month", "binary", 23, set()),
    "ai4i2020": ("Machine failure", "binary", 6, {"product_id", "twf", "hdf", "pwf", "osf", "rnf"}),
    "german": ("21", "binary", 20, set()),
    "pima_diabetes": ("9", "binary", 8, set()),
    "winequality-white": ("-1", "regression", 11, set()),
    "ccpp": ("PE", "regression", 4, set()),
    "wdbc": ("diagnosis", "binary", 30, set()),
    "banking77_train": ("category", "multiclass", 1, set()),
    "paysim_sample": (
        "isFraud",
        "binary",
        3,
        {"name_orig", "name_dest", "oldbalance_org", "newbalance_orig", "oldbalance_dest", "newbalance_dest", "is_flagged_fraud"},
    ),
    "actg175": ("cens", "binary", 24, {"row_number", "zprior"}),
    "insects_gradual": ("34", "multiclass", 33, set()),
    "ecom_clickstream": ("event", "multiclass", 4, {"session_id"}),
}


@pytest.mark.parametrize("name", FILES)
def test_real_files(project, name):
    path = SHARED / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    target, task, n_features, unused = FILES[name]
    use_case = load_use_case(scaffold(project, "case", path, target))

    assert use_case.task == task
    assert len(use_case.features()) == n_features
    assert others(use_case) == unused


def test_answers_in_free_text_are_refused(project):
    if not (path := SHARED / "faq_zh.csv").exists():
        pytest.skip(f"{path} is not here")
    with pytest.raises(DataError, match="too few rows of each"):
        scaffold(project, "case", path, "answer")
