"""The task around a stage: exit codes become Airflow's outcomes, and one function says which partition a run is for."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from pipelines_lib import failures
from pipelines_lib.config import CheckpointStore, Project
from pipelines_lib.contracts import LEDGER, Firing, JobResult, Ledger, Pipeline
from pipelines_lib.errors import Unavailable
from pipelines_lib.failures import Failure
from pipelines_lib.orchestration import operators
from pipelines_lib.orchestration.operators import run_job
from pipelines_lib.orchestration.partition import partition_of
from pipelines_lib.store import write_json
from pipelines_lib.use_case import UseCase

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, cases: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name, value in {"PROJECT": ROOT, "HOME": tmp_path / "home", "USE_CASES": cases, "PROFILE": "local"}.items():
        monkeypatch.setenv(f"SLUICE_{name}", str(value))
    return Project.from_environment()


class TaskInstance:
    try_number = 2

    def get_dr_count(self, dag_id: str, states: list[str] | None = None, run_ids: list[str] | None = None) -> int:
        """Three trainings run; of those that drift has fired Airflow knows the first."""
        assert dag_id == "shop__training"
        return 3 if states == ["queued", "running"] else sum(run_id == "drift__1" for run_id in run_ids or [])


class FakeJob:
    """A job that leaves a result and ends with a code."""

    code = 0
    secrets: dict[str, str]
    result = JobResult(stage="gate", reason="fine", figures={"n_rows": 5}, links={"MLflow run": "http://mlflow"})

    def __init__(self, spec: Any, *_: Any, secrets: dict[str, str]) -> None:
        FakeJob.spec = spec
        self.folder = Path(spec.stage_dir)
        FakeJob.secrets = secrets

    def run(self, on_line: Any) -> int:
        on_line("a line")
        write_json(Path(self.spec.stage_dir) / "result.json", self.result)
        return self.code


def execute(
    monkeypatch: pytest.MonkeyPatch,
    project: Project,
    code: int,
    *,
    stage: str = "gate",
    pipeline: Pipeline = Pipeline.TRAINING,
    **settings: Any,
) -> Any:
    monkeypatch.setattr(operators, "Job", FakeJob)
    monkeypatch.setattr(FakeJob, "code", code)
    task = run_job(project.use_case("shop"), pipeline, stage, **settings)
    context = {
        "partition_key": "2026-01-02",
        "params": {"partition": None, "epochs": 3, "window": None},
        "run_id": "manual__1",
        "ti": TaskInstance(),
    }
    return task.execute({**context, "outlet_events": {}})


def test_done_returns_the_figures(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert execute(monkeypatch, project, 0) == {"reason": "fine", "n_rows": 5}
    assert FakeJob.spec.partition_key == "2026-01-02"
    assert FakeJob.spec.params == {"epochs": 3}


@pytest.mark.parametrize(("code", "settings", "outcome"), [
    (2, {}, AirflowFailException),
    (3, {}, AirflowFailException),
    (3, {"on_hold": "skip"}, AirflowSkipException),
    (1, {}, AirflowException),
    (-9, {}, AirflowException),
])  # fmt: skip
def test_each_exit_code_has_its_outcome(
    project: Project, monkeypatch: pytest.MonkeyPatch, code: int, settings: dict, outcome: type
) -> None:
    with pytest.raises(outcome) as raised:
        execute(monkeypatch, project, code, **settings)
    assert type(raised.value) is outcome  # the exceptions of "no retry" and "retry" are one's subclass of the other


@pytest.mark.parametrize(("code", "workers", "says"), [
    (2, 1, r"says what to change: ValueError: boom$"),
    (1, 2, r"has the cause\. first failure: rank 1 on a: ValueError: boom\n      in f\nthen rank 0 on a: Lost: gone$"),
])  # fmt: skip
def test_the_task_fails_with_what_failed_first(
    project: Project, monkeypatch: pytest.MonkeyPatch, code: int, workers: int, says: str
) -> None:
    def run(job: FakeJob, _: Any) -> int:
        own = Failure(rank=1, host="a", moment=2.0, kind="error", type="ValueError", message="boom", traceback="  in f\n")
        failures.leave(job.folder, own)
        failures.leave(job.folder, Failure(rank=0, host="a", moment=1.0, kind="lost", type="Lost", message="gone"))
        return code

    monkeypatch.setattr(FakeJob, "run", run)
    with pytest.raises(AirflowException, match=says):
        execute(monkeypatch, project, code, stage="train", workers=workers)


@pytest.fixture
def named_connection(project: Project) -> None:
    """`ingest` of the shop reads from `shop_db`."""
    sql = "{sql: {connection: shop_db, query: 'SELECT * FROM t WHERE day = :partition', order_by: [id]}}"
    path = project.use_cases / "shop" / "use_case.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace('{path: "{home}/{partition}.csv"}', sql), encoding="utf-8")


@pytest.mark.usefixtures("named_connection")
def test_a_stage_gets_the_connections_it_reads_from(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_DB", "postgres://reader:s3cret@db/shop")
    returned = execute(monkeypatch, project, 0, stage="ingest", pipeline=Pipeline.DATA)

    assert json.loads(FakeJob.secrets["SLUICE_CONN_SHOP_DB"])["password"] == "s3cret"
    assert "s3cret" not in str(returned) + FakeJob.spec.model_dump_json()
    execute(monkeypatch, project, 0, stage="validate", pipeline=Pipeline.DATA)
    assert FakeJob.secrets == {}


def test_a_training_gets_the_connection_to_its_checkpoints(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = project.profile().model_copy(update={"checkpoints": CheckpointStore(path="s3://models", connection="oss")})
    monkeypatch.setattr(Project, "profile", lambda self: profile)
    monkeypatch.setenv("AIRFLOW_CONN_OSS", '{"conn_type": "aws", "password": "s3cret"}')
    execute(monkeypatch, project, 0, stage="train")
    assert json.loads(FakeJob.secrets["SLUICE_CONN_OSS"])["password"] == "s3cret"
    execute(monkeypatch, project, 0, stage="evaluate")
    assert FakeJob.secrets == {}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "outcome", "says"),
    [
        ({"status": 403, "code": "AccessDenied"}, AirflowFailException, "the store refused access"),
        ({"status": 503, "code": "SlowDown"}, Unavailable, "the store does not answer"),
    ],
)
def test_a_store_that_refuses_fails_for_good_and_one_that_does_not_answer_is_tried_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, *, troubled: Any, bucket: Any, fault: dict, outcome: type, says: str
) -> None:
    connection = os.environ["SLUICE_CONN_BUCKET"].replace(bucket.access.endpoint, troubled.address)
    monkeypatch.setenv("AIRFLOW_CONN_TROUBLED", connection)
    profile = project.profile().model_copy(update={"store": str(bucket), "store_connection": "troubled"})
    monkeypatch.setattr(Project, "profile", lambda *_: profile)
    troubled.fail("answer", methods="GET PUT HEAD", times=1000, **fault)
    task = run_job(project.use_case("shop"), Pipeline.TRAINING, "gate")
    with pytest.raises(outcome, match=says) as raised:
        task.execute({"partition_key": "2026-01-02", "params": {}, "run_id": "r", "ti": TaskInstance(), "outlet_events": {}})
    assert type(raised.value) is outcome


@pytest.mark.usefixtures("named_connection")
def test_a_connection_that_airflow_lacks_fails_for_good(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException, match=r"'shop_db', and Airflow has none.*airflow connections add shop_db"):
        execute(monkeypatch, project, 0, stage="ingest", pipeline=Pipeline.DATA)

    monkeypatch.setenv("SLUICE_CONN_SHOP_DB", "the worker's own")
    execute(monkeypatch, project, 0, stage="ingest", pipeline=Pipeline.DATA)
    assert FakeJob.secrets == {"SLUICE_CONN_SHOP_DB": "the worker's own"}


def test_a_key_that_airflow_lacks_is_left_to_the_stage(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    key = project.use_case("shop").privacy.connection
    monkeypatch.setattr(UseCase, "connections", lambda self, stage: [key])
    execute(monkeypatch, project, 0, stage="ingest", pipeline=Pipeline.DATA)
    assert FakeJob.secrets == {}

    monkeypatch.setenv(f"AIRFLOW_CONN_{key.upper()}", '{"conn_type": "generic", "password": "s3cret"}')
    execute(monkeypatch, project, 0, stage="ingest", pipeline=Pipeline.DATA)
    assert json.loads(FakeJob.secrets[f"SLUICE_CONN_{key.upper()}"])["password"] == "s3cret"


def test_a_trial_gets_the_address_of_the_others(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = Project.profile(project).model_copy(update={"tuning_connection": "tuning_db"})
    monkeypatch.setattr(Project, "profile", lambda self: meeting)
    with pytest.raises(AirflowFailException, match="tune of shop needs connection 'tuning_db', and Airflow has none"):
        execute(monkeypatch, project, 0, stage="tune")
    monkeypatch.setenv("AIRFLOW_CONN_TUNING_DB", "postgres://me:s3cret@db/trials")
    execute(monkeypatch, project, 0, stage="tune")
    assert json.loads(FakeJob.secrets["SLUICE_CONN_TUNING_DB"])["password"] == "s3cret"
    assert "s3cret" not in FakeJob.spec.model_dump_json()

    execute(monkeypatch, project, 0, stage="train")
    assert FakeJob.secrets == {}


def test_decide_is_told_of_trainings_in_flight(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(monkeypatch, project, 0, stage="decide", pipeline=Pipeline.MONITORING)
    assert FakeJob.spec.params == {"epochs": 3, "trainings_in_flight": 3, "retrainings_known": 0}


def test_a_retraining_that_was_just_fired_is_in_flight_before_its_run_is_there(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    ages = {"drift__1": 5, "drift__2": 5, "drift__3": 100_000}
    fired = [Firing(partition_key=run_id, run_id=run_id, model_version=1, at=time.time() - age) for run_id, age in ages.items()]
    write_json(Path(project.profile().store) / "shop" / LEDGER, Ledger(fired=tuple(fired)))
    execute(monkeypatch, project, 0, stage="decide", pipeline=Pipeline.MONITORING)
    assert FakeJob.spec.params == {"epochs": 3, "trainings_in_flight": 4, "retrainings_known": 3}


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [("2026-01-02", None, "2026-01-02"), (None, "2026-01-03", "2026-01-03"), ("2026-01-02", "2026-01-02", "2026-01-02")],
)
def test_the_partition_comes_from_the_key_or_the_form(project: Project, own: str | None, given: str | None, expected: str) -> None:
    assert partition_of({"partition_key": own, "params": {"partition": given}}, project.use_case("shop")) == expected


@pytest.mark.parametrize(("own", "given", "message"), [
    (None, None, "names no partition.*such as 2026-01-01"),
    ("2026-01-02", "2026-01-03", "names two partitions"),
    ("2026-1-2", None, "is not a partition of shop"),
    ("../../etc", None, "is not a partition of shop"),
])  # fmt: skip
def test_a_run_without_one_partition_fails_for_good(project: Project, own: str | None, given: str | None, message: str) -> None:
    with pytest.raises(AirflowFailException, match=message):
        partition_of({"partition_key": own, "params": {"partition": given}}, project.use_case("shop"))


def test_a_shard_runs_as_a_process_of_its_own(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "Job", FakeJob)
    monkeypatch.setattr(FakeJob, "code", 0)
    task = operators.LocalJobOperator(task_id="validate_shards", use_case_name="shop", pipeline="data", stage="validate", shards=3, shard=1)
    task.execute({"partition_key": "2026-01-02", "params": {}, "run_id": "manual__1", "ti": TaskInstance(), "outlet_events": {}})

    assert (FakeJob.spec.shards, FakeJob.spec.shard) == (3, 1)
    assert FakeJob.spec.stage_dir.endswith("/runs/data/manual__1/validate/shard-1")
    assert [part.shard for part in FakeJob.spec.model_copy(update={"shard": None}).in_shards()] == [0, 1, 2, None]


def test_a_use_case_without_shards_has_the_stage_alone(project: Project) -> None:
    assert [task.task_id for task in operators.run_sharded(project.use_case("shop"), Pipeline.DATA, "validate")] == ["validate"]


def test_a_stage_that_is_none_is_our_own_mistake(project: Project) -> None:
    with pytest.raises(AssertionError, match="no stage"):
        run_job(project.use_case("shop"), Pipeline.DATA, "train")


def test_no_heavy_module_came_with_it() -> None:
    import subprocess

    code = "import json, sys; import airflow.sdk; before = set(sys.modules); import pipelines_lib.orchestration.operators; print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"pandas", "numpy", "torch", "mlflow", "boto3", "kubernetes", "pyarrow"} & set(
        json.loads(done.stdout.strip().splitlines()[-1])
    )
