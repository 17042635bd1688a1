"""Great Expectations, asked in the cheapest way that leaves it the judge.

An expectation is GX's own object, and GX computes what it needs: the metrics it names as its dependencies, on a frame of the
columns it names, without the lists and queries of row numbers that GX would build for a report. What GX says of the parts of a
partition is added up (they are counts), and GX makes its verdict of the sums.
"""

import datetime as dt
import difflib
import importlib.util
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.errors import ConfigError

SAMPLE = 20
"""Rows that failed and are shown for an expectation, at most: GX's own number."""

# Map metrics whose verdict on a row depends on that row alone. What is not here (uniqueness, order, z-scores, types of a whole
# column) is judged on the whole partition.
_ROW_LOCAL = frozenset(
    {
        "column_pair_values.a_greater_than_b",
        "column_pair_values.equal",
        "column_pair_values.in_set",
        "column_values.between",
        "column_values.dateutil_parseable",
        "column_values.in_set",
        "column_values.json_parseable",
        "column_values.match_json_schema",
        "column_values.match_regex",
        "column_values.match_regex_list",
        "column_values.match_strftime_format",
        "column_values.nonnull",
        "column_values.not_in_set",
        "column_values.not_match_regex",
        "column_values.not_match_regex_list",
        "column_values.null",
        "column_values.value_length.between",
        "column_values.value_length.equals",
        "multicolumn_sum.equal",
        "multicolumn_values.equal",
        "select_column_values.unique.within_record",
    }
)
# Of those, a pair of equal rows lacks the same values; so these too may judge complete rows and others apart.
_UNIQUE = frozenset({"column_values.unique", "compound_columns.unique"})
_NAMED = ("column", "column_A", "column_B")
_FORMAT = {"result_format": "SUMMARY", "partial_unexpected_count": SAMPLE, "return_unexpected_index_query": False}
_COUNTS = {"result_format": "BOOLEAN_ONLY"}
_NANOSECONDS = (dt.datetime(1678, 1, 1), dt.datetime(2262, 1, 1))


@dataclass(frozen=True)
class Expectation:
    """One expectation of a use case, as written and as GX made it."""

    index: int
    name: str
    arguments: Mapping[str, Any]
    impl: Any

    @cached_property
    def label(self) -> str:
        """The expectation with its columns: `expect_column_values_to_be_between(price)`."""
        columns = self._named()
        return f"{self.name}({', '.join(map(str, columns))})" if columns else self.name

    @property
    def row_local(self) -> bool:
        """Whether a row's verdict depends on that row alone. A `row_condition` may look at other rows (`x > x.mean()`)."""
        return getattr(self.impl, "map_metric", None) in _ROW_LOCAL and not self.arguments.get("row_condition")

    @property
    def by_row(self) -> bool:
        """Whether it says of each row whether it passes."""
        return getattr(self.impl, "map_metric", None) is not None

    @cached_property
    def needs(self) -> dict[str, Any]:
        """GX's metrics that a row-local expectation counts by, which are the same for every batch."""
        metrics: dict[str, Any] = self.impl.get_validation_dependencies(None, {"result_format": dict(_COUNTS)}).metric_configurations
        return metrics

    @property
    def of_shape(self) -> bool:
        """Whether it looks at the table's shape, and at no value."""
        return self.name.startswith("expect_table_") or self.name == "expect_column_to_exist"

    @property
    def mostly(self) -> float:
        """Share of the rows that must pass."""
        return float(self.arguments.get("mostly", 1))

    def columns(self, known: list[str]) -> list[str]:
        """Columns of `known` that it looks at: those it names, and those that its `row_condition` mentions."""
        condition = str(self.arguments.get("row_condition") or "")
        named = {str(column) for column in self._named()}
        return [name for name in known if name in named or re.search(rf"(?<!\w){re.escape(name)}(?!\w)", condition)]

    def _named(self) -> list[Any]:
        return [self.arguments[key] for key in _NAMED if key in self.arguments] or list(self.arguments.get("column_list", []))


@dataclass
class Tally:
    """What GX counted for an expectation, over the parts of a partition seen so far."""

    counts: dict[str, Any]
    """GX's metrics by the names that the expectation gives them. Those of a map expectation are counts, which add up."""
    failed: np.ndarray
    """Positions of the rows of the last part that failed."""
    blank: Any
    """GX's engine over columns of the same types and no rows: some expectations look at the types when they make their verdict."""

    def add(self, other: "Tally") -> None:
        """Take in the next part of the partition."""
        self.add_counts(other.counts)

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Take in what was counted in the next part."""
        for key, value in counts.items():
            self.counts[key] = self.counts.get(key, 0) + value


def expectation(name: str, arguments: dict[str, Any], index: int) -> Expectation:
    """GX's object for an expectation of a use case. Raises `ConfigError` where GX has none of the name, or it takes other arguments."""
    great_expectations()
    from great_expectations.expectations import registry  # noqa: PLC0415

    known = registry.list_registered_expectation_implementations()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"quality.expectations.{index}: Great Expectations has no {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else "see docs.greatexpectations.io/expectations for the names")
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of `condition_parser`
            impl = registry.get_expectation_impl(name)(**{**arguments, **_moments(arguments)}, meta={"index": index})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"quality.expectations.{index}: {name} does not take {arguments}: {_first_lines(error)}; correct its arguments"
        ) from error
    return Expectation(index, name, arguments, impl)


def tally(judge: Expectation, rows: pa.Table, private: bool = False) -> Tally:
    """What GX counts for an expectation in `rows` (the columns that it looks at). Raises `ConfigError` where it can't judge them.

    `private` keeps the text of GX's exception, which may quote a value, out of the error.
    """
    parts = [_counted(judge, frame, private) for frame in _frames(judge, rows)]
    found = parts[0]
    for part in parts[1:]:
        found.add(part)
        found.failed = np.sort(np.concatenate([found.failed, part.failed]))
    return found


def nothing_counted(rows: pa.Table) -> Tally:
    """The tally of no rows, with the columns of `rows`."""
    from great_expectations.execution_engine import PandasExecutionEngine  # noqa: PLC0415

    return Tally({}, np.empty(0, np.int64), PandasExecutionEngine(batch_data_dict={"rows": rows.slice(0, 0).to_pandas()}))


def tally_of_shape(judge: Expectation, columns: list[str], n_rows: int) -> Tally:
    """The same for an expectation of the table's shape, with a frame that takes no memory."""
    import pandas as pd  # noqa: PLC0415

    nothing = np.broadcast_to(np.int8(0), n_rows)
    frame = pd.DataFrame(dict.fromkeys(columns, nothing), index=pd.RangeIndex(n_rows), copy=False)
    return _counted(judge, frame, private=False)


def verdict(judge: Expectation, counted: Tally, sample: list[Any], row_ids: list[str]) -> Any:
    """GX's result (an `ExpectationValidationResult`) of what was counted; `sample` stands for the values that failed."""
    runtime = {"result_format": dict(_FORMAT)}
    stands_for = {".unexpected_values": sample, ".unexpected_index_list": row_ids, ".unexpected_index_query": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = judge.impl.get_validation_dependencies(counted.blank, dict(runtime)).metric_configurations
        metrics = {}
        for name, metric in wanted.items():
            suffix = f".{name.rpartition('.')[2]}"
            metrics[metric.id] = stands_for[suffix] if suffix in stands_for else counted.counts[name]
        return judge.impl.metrics_validate(metrics, runtime_configuration=runtime, execution_engine=counted.blank)


def great_expectations() -> Any:
    """Import it late and quietly: it takes seconds, would send usage statistics, and logs each step."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    _import_on_first_use("scipy.stats")
    with warnings.catch_warnings(), _out_of_reach("pyspark"):
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations as gx  # noqa: PLC0415
        import great_expectations.expectations as _  # noqa: F401, PLC0415 - registers the expectations
    # After the import, which sets levels of its own.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    return gx


@contextmanager
def _out_of_reach(name: str) -> Iterator[None]:
    """Let an import of a package fail, as where it is not installed. Where it is loaded already (in a worker of Spark), it is afterwards.

    GX would import PySpark for an engine that is not used here: it takes seconds, warns of the pandas here, and ends the process
    with code 0 where that has no main file (`python -c`).
    """
    loaded = {module: sys.modules.pop(module) for module in list(sys.modules) if module.partition(".")[0] == name}
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(loaded)


def _import_on_first_use(name: str) -> None:
    """Nearly half of the time GX takes to import goes into scipy.stats, which two of its expectations need (6.2 s; 3.4 s without)."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)
    spec.loader.exec_module(module)


def _counted(judge: Expectation, frame: Any, private: bool) -> Tally:
    from great_expectations.exceptions import GreatExpectationsError  # noqa: PLC0415
    from great_expectations.execution_engine import PandasExecutionEngine  # noqa: PLC0415
    from great_expectations.validator.metrics_calculator import MetricsCalculator  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = PandasExecutionEngine(batch_data_dict={"rows": frame})
        calculator = MetricsCalculator(engine)
        try:
            wanted = judge.needs if judge.row_local else _needs(judge, engine)
            graph = calculator.build_metric_dependency_graph(list(wanted.values()))
            # Not `compute_metrics`, which logs an exception with the values that it quotes.
            found, aborted = calculator.resolve_validation_graph(graph)
        except (GreatExpectationsError, TypeError, ValueError) as error:
            raise _cannot_judge(judge, type(error).__name__, str(error), private) from error
    for problem in aborted.values():
        info = problem["exception_info"]
        raise _cannot_judge(judge, "an exception", str(info.exception_message), private)
    counts = {name: found[metric.id] for name, metric in wanted.items()}
    return Tally(counts, _failed(judge, found), PandasExecutionEngine(batch_data_dict={"rows": frame.iloc[:0]}))


def _needs(judge: Expectation, engine: Any) -> dict[str, Any]:
    wanted = judge.impl.get_validation_dependencies(engine, {"result_format": dict(_COUNTS if judge.by_row else _FORMAT)})
    metrics: dict[str, Any] = wanted.metric_configurations
    return metrics


def _failed(judge: Expectation, found: dict[Any, Any]) -> np.ndarray:
    """Positions of the rows that GX's condition calls unexpected."""
    condition = f"{getattr(judge.impl, 'map_metric', None)}.condition"
    for key, value in found.items():
        if key[0] == condition:
            unexpected = value[0]
            return np.asarray(unexpected.index[unexpected.to_numpy(dtype=bool)], dtype=np.int64)
    return np.empty(0, dtype=np.int64)


def _frames(judge: Expectation, rows: pa.Table) -> Iterator[Any]:
    """`rows` as pandas frames whose index is the rows' position.

    pandas would make decimals of whole numbers beside a missing value, and GX would then look for "1" in "1.0". So rows that lack
    a whole number or a truth value stand in a frame of their own, and a row is judged alike whichever rows stand beside it.
    """
    if judge.impl.__class__.__name__ == "ExpectColumnValuesToBeBetween":
        rows = _in_nanoseconds(rows)
    if getattr(judge.impl, "map_metric", None) in _UNIQUE:
        rows = _as_numbers(rows)
    thin = [rows[field.name] for field in rows.schema if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)]
    if not any(column.null_count for column in thin) or getattr(judge.impl, "map_metric", None) not in _ROW_LOCAL | _UNIQUE:
        yield rows.to_pandas()
        return
    complete = pc.is_valid(thin[0])
    for column in thin[1:]:
        complete = pc.and_(complete, pc.is_valid(column))
    whole = complete.to_numpy().astype(bool)
    if whole.any():
        yield rows.filter(complete).to_pandas().set_axis(np.flatnonzero(whole), axis=0)
    lacking = rows.filter(pc.invert(complete))
    for index, field in enumerate(lacking.schema):
        if pa.types.is_integer(field.type):
            lacking = lacking.set_column(index, field.name, lacking[field.name].cast(pa.float64(), safe=False))
    frame = lacking.to_pandas().set_axis(np.flatnonzero(~whole), axis=0)
    yield frame.astype({field.name: object for field in rows.schema if pa.types.is_boolean(field.type)})


def _as_numbers(rows: pa.Table) -> pa.Table:
    """Texts as numbers that are equal where the texts are: pandas finds the equal ones in two thirds of the memory."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            encoded = rows[field.name].dictionary_encode()
            codes = pa.chunked_array([chunk.indices for chunk in encoded.chunks], pa.int32())
            rows = rows.set_column(index, field.name, codes)
    return rows


def _in_nanoseconds(rows: pa.Table) -> pa.Table:
    """GX compares times of this unit at once and all others one by one; times that the unit can't hold stay as they are."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            first, last = pc.min_max(rows[field.name]).values()
            if first.as_py() is not None and first.as_py() >= _NANOSECONDS[0] and last.as_py() < _NANOSECONDS[1]:
                rows = rows.set_column(index, field.name, rows[field.name].cast(pa.timestamp("ns")))
    return rows


def _moments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Bounds that are days, as the times these begin: GX compares no time with a day."""
    moments: dict[str, Any] = {}
    for key in ("min_value", "max_value"):
        value = arguments.get(key)
        if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
            moments[key] = dt.datetime.combine(value, dt.time())
        elif isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            moments[key] = f"{value}T00:00:00"
    return moments


def _cannot_judge(judge: Expectation, kind: str, message: str, private: bool) -> ConfigError:
    said = f"{kind}, not shown because a column is personal" if private else " ".join(message.split())[:300]
    return ConfigError(f"quality.expectations: {judge.label} can't judge these columns: {said}; correct its arguments or the column's type")


def _first_lines(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines()[1:5]) or str(error)
