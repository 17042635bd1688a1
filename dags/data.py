"""The Airflow DAGs `<use_case>__data`: one partition from its source to labelled rows."""

from airflow.sdk import DAG, chain

from pipelines_lib.contracts import Pipeline
from pipelines_lib.orchestration.dags import good_use_cases, labelled_asset, pipeline_dag, row_review, runs_that_wait, scored_asset
from pipelines_lib.orchestration.operators import run_job, run_sharded
from pipelines_lib.use_case import UseCase

DOC = """
Takes one partition from its source to labelled rows: **ingest** → **validate** → **prepare**.

**When it fails.** `validate` *held*: too many rows broke an expectation, or the whole table did. The log names the
expectation and some row ids, the button *Data quality* opens the report. Mend the source and clear
`ingest`, or mend the expectation and clear `validate`. `ingest` failed with bad input: the file is missing, unreadable or lost a column; the log says which. Clearing
any task is safe: a partition is written whole or not at all, and writing the same rows again changes nothing.

**Shards.** Where the use case splits its partitions, `validate_shards` and `prepare_shards` do a part each and the stage puts the
parts together. After the settings were changed clear `validate_shards` with what follows it: `validate` refuses parts that were made with others.

**Review.** Where the use case asks people, `review` waits for someone to say that the rows were reviewed, and `relabel` takes in
what was said. Without an answer in time the run goes on without, and the answers may be imported later.

**Scores.** Where the use case asks for them, `score` writes what the version that serves says of each clean row into the table `scored`.
*Skipped*: no version serves yet; its log says so. Clearing it scores the partition again, with the version of now.

**Backfill.** *Trigger → Backfill*, or `airflow backfill create --dag-id … --from-date … --to-date …`. Set the end to the end of
the last day: a run is stamped with the hour of its schedule. Partitions may run in any order.
"""


def data_dag(use_case: UseCase) -> DAG:
    """ingest → validate → prepare (→ review → relabel; → score), which publish the labelled partition as an asset event."""
    data, asset = Pipeline.DATA, labelled_asset(use_case)
    asked = use_case.label.review is not None and use_case.label.review.in_airflow
    # A run that waits for a person holds a place among the active ones.
    n_runs = 4 + (runs_that_wait(use_case) if asked else 0)
    with pipeline_dag(use_case, data, cron=use_case.schedule.data, run_offset=-1, doc=DOC, max_active_runs=n_runs) as dag:
        *_, prepare = prepares = run_sharded(use_case, data, "prepare", outlets=[asset])
        chain(run_job(use_case, data, "ingest"), *run_sharded(use_case, data, "validate"), *prepares)
        if asked:
            chain(prepare, row_review(use_case), run_job(use_case, data, "relabel", outlets=[asset]))
        if use_case.deployment.batch:
            chain(prepare, run_job(use_case, data, "score", on_hold="skip", outlets=[scored_asset(use_case)]))
    return dag


for case in good_use_cases():
    globals()[f"{case.name}__data"] = data_dag(case)
