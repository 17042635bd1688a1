"""The `quality` layer: what was found in each partition, as rows that can be charted.

One row says how the partition as a whole fared, one what each expectation found, one how many rows each other rule rejected, and
one each change of the source's columns. All have the same columns, whatever a use case asks:

| column | meaning |
|---|---|
| `kind` | `partition`, `expectation`, `rule` (types, missing values, labels, unreadable records), `upstream` (the source's columns) or `privacy` |
| `name` | the expectation with its columns, the rule, the change, or `k-anonymity` |
| `judges` | `row` where a failure costs rows, `partition` where it holds the partition |
| `success` | whether it was met; of the partition: whether it passed |
| `n_checked`, `n_failed`, `share` | rows that were judged, rows that failed, and the one divided by the other |
| `observed` | what was seen, or why the partition was held |
"""

import pyarrow as pa

from pipelines_lib.data.quality.findings import Findings

_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("kind", pa.string()),
        ("name", pa.string()),
        ("judges", pa.string()),
        ("success", pa.bool_()),
        ("n_checked", pa.int64()),
        ("n_failed", pa.int64()),
        ("share", pa.float64()),
        ("observed", pa.string()),
    ]
)


def quality_rows(findings: Findings) -> pa.Table:
    """The partition's rows of the `quality` layer."""
    named = {check.name for check in findings.checks}
    rows = [
        _row(
            "partition",
            "partition",
            judges="partition",
            success=not findings.held_because,
            counts=(findings.n_rows, findings.n_quarantined),
            observed=findings.held_because,
        ),
        *(
            # The same expectation may stand twice, with other arguments.
            _row(
                "expectation",
                check.name,
                place=f"{index:03d}",
                judges="row" if check.of_rows else "partition",
                success=check.success,
                counts=(check.n_checked, check.n_failed),
                observed=check.observed,
            )
            for index, check in enumerate(findings.checks)
        ),
        *(
            _row("rule", reason.name, judges="row", success=False, counts=(findings.n_rows, reason.n_rows))
            for reason in findings.reasons
            if reason.name not in named
        ),
        *(
            _row(
                "upstream",
                f"{change.kind}: {change.column}",
                judges="partition",
                success=not change.holds,
                counts=(findings.n_rows, change.n_failed),
                observed=change.said,
            )
            for change in findings.changes
        ),
        *(
            _row(
                "privacy",
                "k-anonymity",
                judges="partition",
                success=not findings.too_telling,
                counts=(found.n_rows, found.n_below),
                observed=found.sentence(),
            )
            for found in [findings.anonymity]
            if found is not None
        ),
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _row(
    kind: str, name: str, *, judges: str, success: bool, counts: tuple[int, int], observed: str = "", place: str = ""
) -> dict[str, object]:
    n_checked, n_failed = counts
    return {
        "row_id": f"{kind}:{place or name}",
        "kind": kind,
        "name": name,
        "judges": judges,
        "success": success,
        "n_checked": n_checked,
        "n_failed": n_failed,
        "share": n_failed / n_checked if n_checked else 0.0,
        "observed": observed,
    }
