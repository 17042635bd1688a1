"""Read a partition at its source and keep it as it came: the `raw` layer.

    python -m pipelines_lib.jobs.ingest --spec spec.json

Records that can't be read as rows are no loss either: they wait beside the result for `validate`, which quarantines them.
"""

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.csvfile import CsvFile
from pipelines_lib.data.sources import Land, land, raw_rows, read_source, source_path
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.store import write_json


def main(stage: Stage) -> JobResult:
    """Land the file, read it, write the partition of `raw`."""
    key = stage.spec.partition_key
    path = source_path(stage.project, stage.use_case, key)
    if stage.use_case.source.land:
        land(_land_hook(stage), key, path, stage.use_case)
    file = read_source(path, stage.use_case, key)
    version = Tables(stage.root).write("raw", key, raw_rows(file, key))
    _keep_unreadable(stage, file)
    return JobResult(
        stage="ingest",
        reason=f"read {file.rows.num_rows} rows of {key}" + (f", {len(file.unreadable)} records unreadable" if file.unreadable else ""),
        figures={
            "n_rows": file.rows.num_rows,
            "n_unreadable": len(file.unreadable),
            "n_columns": file.rows.num_columns,
            "encoding": file.csv.encoding,
            "delimiter": file.csv.delimiter,
        },
        outputs={"raw_version": version, "unreadable": "unreadable.json"},
    )


def _keep_unreadable(stage: Stage, file: CsvFile) -> None:
    write_json(stage.folder / "unreadable.json", [{"number": record.number, "text": record.text} for record in file.unreadable])


def _land_hook(stage: Stage) -> Land:
    hooks = stage.hooks()
    hook: Land | None = getattr(hooks, "land", None)
    if not callable(hook):
        raise ConfigError(
            f"{hooks.__file__}: has no function land(partition_key, path, params), and source.land is set; write one, or remove `land`"
        )
    return hook


if __name__ == "__main__":
    run_stage(main)
