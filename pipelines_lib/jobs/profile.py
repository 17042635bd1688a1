"""Summarise what was asked and answered on a partition: the first stage of the monitoring pipeline.

python -m pipelines_lib.jobs.profile --spec spec.json
"""

import json
import logging

import pyarrow as pa

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.tables import Tables
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.monitoring.answers import answers_of_profile, profile_answers, versions

log = logging.getLogger("sluice")


def main(stage: Stage) -> JobResult:
    """One pass over the partition's answers, kept as one row of `profiles`."""
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    # First of all: whoever reads the day from now on opens one file and not thousands.
    if stage.use_case.answers == "service" and (n_files := tables.compact("predictions", key)):
        log.info("%s files of answers are in fewer now", f"{n_files:,}")
    rows = answers_of_profile(tables, stage.use_case, key)
    profile = profile_answers(rows, stage.use_case)
    by_version = versions(rows)
    row = {"row_id": "profile", "n_rows": profile.n_rows, "versions": json.dumps(by_version), "profile_json": profile.to_json()}
    version = tables.write("profiles", key, pa.Table.from_pylist([row]))
    return JobResult(
        stage="profile",
        reason=f"{profile.n_rows:,} answers on {key}" + (f" by version {', '.join(map(str, by_version))}" if by_version else ""),
        figures={"n_rows": profile.n_rows, "columns": len(profile.columns), "versions": {str(v): n for v, n in by_version.items()}},
        outputs={"profiles_version": version},
    )


if __name__ == "__main__":
    run_stage(main)
