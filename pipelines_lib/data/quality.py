"""The gate between `raw` and `clean`: which rows are quarantined, and whether the partition may pass.

Expectations are Great Expectations' own (docs.greatexpectations.io/expectations), called directly on the partition:

- One that judges each row sends every row that fails to quarantine, with the expectation among the row's reasons.
- One that judges each row and has `mostly` below 1 judges the partition instead: as long as it holds, the rows it found stay
  (they are the exceptions it allows); where it does not, the partition is held.
- One that judges the table (a mean, a row count) holds the partition where it fails.
"""

import difflib
import importlib.util
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import Quality

_EXAMPLES = 3


@dataclass(frozen=True)
class Check:
    """What one expectation found in a partition."""

    name: str
    """The expectation with its column: `expect_column_values_to_be_between(price)`."""
    success: bool
    of_rows: bool
    """Whether it judges row by row, so that a failure costs rows and not the partition."""
    rows: tuple[int, ...] = ()
    """Positions of the rows that failed."""
    observed: str = ""
    """What a table expectation saw."""


def check(rows: pa.Table, quality: Quality) -> list[Check]:
    """Each expectation's finding on `rows` (declared columns only), in the order written.

    Raises `ConfigError` where an expectation is unknown, takes other arguments, or can't judge these columns.
    """
    if not quality.expectations or rows.num_rows == 0:
        return []
    gx = _great_expectations()
    context = _context(gx)
    suite = gx.ExpectationSuite(name="quality")
    for index, item in enumerate(quality.expectations):
        [(name, arguments)] = item.items()
        # GX reports in an order of its own; the index leads back to ours.
        suite.add_expectation(_expectation(name, arguments, index))
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("partition")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": rows.to_pandas()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    found = {result.expectation_config.meta["index"]: result for result in report.results}
    return [_check(item, found[index]) for index, item in enumerate(quality.expectations)]


def problems(quality: Quality, sample: pa.Table | None = None) -> list[tuple[int, str]]:
    """(place, message) of each expectation that Great Expectations does not know, takes no such arguments for, or that can't
    judge the columns of `sample` (typed rows)."""
    if not quality.expectations:
        return []
    _great_expectations()
    found: dict[int, str] = {}
    for index, item in enumerate(quality.expectations):
        [(name, arguments)] = item.items()
        try:
            _expectation(name, arguments, index)
        except ConfigError as error:
            found[index] = str(error).partition(": ")[2]
    right = [index for index in range(len(quality.expectations)) if index not in found]
    if sample is not None:
        found |= _misjudging(sample, quality, right)
    return sorted(found.items())


def row_reasons(checks: list[Check], row_ids: list[str]) -> dict[str, set[str]]:
    """`row_id` to the expectations that the row failed."""
    reasons: dict[str, set[str]] = {}
    for finding in checks:
        if finding.of_rows:
            for position in finding.rows:
                reasons.setdefault(row_ids[position], set()).add(finding.name)
    return reasons


def held_because(checks: list[Check], reasons: dict[str, set[str]], n_rows: int, quality: Quality) -> str:
    """Why the partition must not pass, or nothing. Names reasons and rows, never a value."""
    if n_rows == 0:
        return "it has no rows"
    because = [
        f"{finding.name} failed ({finding.observed})" if finding.observed else f"{finding.name} failed for {len(finding.rows)} rows"
        for finding in checks
        if not finding.success and not finding.of_rows
    ]
    share = len(reasons) / n_rows
    if share > quality.max_quarantined:
        because.append(
            f"{len(reasons)} of {n_rows} rows ({share:.1%}) are quarantined, and quality.max_quarantined allows {quality.max_quarantined:.1%}: "
            + "; ".join(f"{reason}: {len(rows)} rows, such as {', '.join(rows[:_EXAMPLES])}" for reason, rows in by_reason(reasons))
        )
    return "; ".join(because)


def by_reason(reasons: dict[str, set[str]]) -> list[tuple[str, list[str]]]:
    """(reason, its rows in order), the most frequent first."""
    grouped: dict[str, list[str]] = {}
    for row_id in sorted(reasons):
        for reason in reasons[row_id]:
            grouped.setdefault(reason, []).append(row_id)
    return sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0]))


def _great_expectations() -> Any:
    """Import it late and quietly: it takes seconds, would send usage statistics, and logs each step."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    _import_on_first_use("scipy.stats")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)  # PySpark's, which GX imports where it is installed, on pandas 3
        import great_expectations as gx  # noqa: PLC0415
        import great_expectations.expectations as _  # noqa: F401, PLC0415 - registers the expectations
    # After the import, which sets levels of its own.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    return gx


def _context(gx: Any) -> Any:
    """Everything in memory: no folder for docs pages that nobody would see, no progress bars in the task's log."""
    base = gx.data_context.types.base
    stores = base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    config = base.DataContextConfig(store_backend_defaults=stores, progress_bars=base.ProgressBarsConfig(globally=False))
    return gx.get_context(mode="ephemeral", project_config=config)


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


def _misjudging(sample: pa.Table, quality: Quality, indices: list[int]) -> dict[int, str]:
    """The expectations at `indices` that can't judge `sample`, looked for one by one only where all together can't."""
    try:
        check(sample, Quality(expectations=[quality.expectations[index] for index in indices]))
    except ConfigError as error:
        if len(indices) == 1:
            return {indices[0]: str(error).partition(": ")[2]}
        return {place: message for index in indices for place, message in _misjudging(sample, quality, [index]).items()}
    return {}


def _expectation(name: str, arguments: dict[str, Any], index: int) -> Any:
    from great_expectations.expectations import registry  # noqa: PLC0415

    known = registry.list_registered_expectation_implementations()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"quality.expectations.{index}: Great Expectations has no {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else "see docs.greatexpectations.io/expectations for the names")
        )
    try:
        return registry.get_expectation_impl(name)(**arguments, meta={"index": index})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"quality.expectations.{index}: {name} does not take {arguments}: {_first_lines(error)}; correct its arguments"
        ) from error


def _check(item: dict[str, dict[str, Any]], result: Any) -> Check:
    [(name, arguments)] = item.items()
    label = _label(name, arguments)
    if (problem := _raised(result.exception_info)) is not None:
        raise ConfigError(f"quality.expectations: {label} can't judge these columns: {problem}; correct its arguments or the column's type")
    positions = tuple(sorted({int(position) for position in result.result.get("unexpected_index_list") or ()}))
    by_row = "unexpected_index_list" in result.result
    observed = result.result.get("observed_value")
    return Check(
        name=label,
        success=bool(result.success),
        of_rows=by_row and float(arguments.get("mostly", 1)) >= 1,
        rows=positions,
        observed="" if by_row else f"observed {observed}"[:200],
    )


def _label(name: str, arguments: dict[str, Any]) -> str:
    columns = [arguments[key] for key in ("column", "column_A", "column_B") if key in arguments] or arguments.get("column_list", [])
    return f"{name}({', '.join(map(str, columns))})" if columns else name


def _raised(info: dict[str, Any]) -> str | None:
    """The message of an exception that GX caught; one dict, or one a metric."""
    for part in [info] if "raised_exception" in info else info.values():
        if part["raised_exception"]:
            return " ".join(str(part["exception_message"]).split())[:300]
    return None


def _first_lines(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines()[1:5]) or str(error)
