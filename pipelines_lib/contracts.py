"""The contract between the Airflow world and the job world.

A stage is a command, `python -m pipelines_lib.jobs.<stage> --spec <path>`. It reads a `JobSpec`, does the
work, writes a `JobResult` to `<run_dir>/<stage>/result.json`, and ends with an `ExitCode`. Nothing else
passes between the worlds. Beside `errors`, this module imports pydantic and the standard library alone.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from enum import IntEnum, StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pipelines_lib.errors import ConfigError, Held


class ExitCode(IntEnum):
    """How a stage ended. Every other code, a signal's included, means: try again, and a retry is a resume."""

    DONE = 0
    BAD_INPUT = 2
    HELD = 3
    INTERRUPTED = 75
    """A signal asked the stage to end, and what it had done is kept: try again (EX_TEMPFAIL of sysexits.h)."""


class Pipeline(StrEnum):
    """The three DAGs of a use case; `<use_case>__<pipeline>` is the DAG's id."""

    DATA = "data"
    TRAINING = "training"
    MONITORING = "monitoring"


# The stages of each pipeline, in order. `sluice run` walks them; the DAGs wire them.
STAGES: dict[Pipeline, tuple[str, ...]] = {
    Pipeline.DATA: ("ingest", "validate", "prepare"),
    Pipeline.TRAINING: ("snapshot", "tune", "train", "evaluate", "gate", "register", "deploy", "verify"),
    Pipeline.MONITORING: ("profile", "measure", "decide", "report"),
}

# Stages that run where something asks for them, and not each time the pipeline does.
EXTRA_STAGES: dict[Pipeline, tuple[str, ...]] = {
    Pipeline.DATA: ("relabel", "score"),
    Pipeline.TRAINING: ("approved", "release"),
    Pipeline.MONITORING: (),
}

# Stages that a use case with `shards` above 1 does in as many parts, each a process of its own, before the stage puts them together.
SHARDED = frozenset({"validate", "prepare"})

TUNE = "tune"
"""The stage of a use case with `tuning:`, in as many parts as it has trials, each a process (or a group of them) of its own, before the stage picks the best."""


def stages_of(pipeline: Pipeline, *, tuned: bool, asked: Collection[str] = ()) -> tuple[str, ...]:
    """The stages of a use case's pipeline, in order; `asked` are those of EXTRA_STAGES that it asks for."""
    return (
        *(stage for stage in STAGES[pipeline] if tuned or stage != TUNE),
        *(stage for stage in EXTRA_STAGES[pipeline] if stage in asked),
    )


Verdict = Literal["pass", "hold"]


class Contract(BaseModel):
    """Frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobSpec(Contract):
    """What one stage is asked to do."""

    stage: str
    pipeline: Pipeline
    use_case: str
    partition_key: str
    """The partition this run is for, or, for training, the last partition its window may hold."""
    run_id: str
    profile: str = "local"
    store: str
    """Root of the object store: a folder or a URL."""
    workers: int = 1
    """Processes that work on the stage together (`torchrun` where more than one is possible)."""
    shards: int = Field(default=1, ge=1)
    """Into how many parts the partition is split. Above 1, the stage without `shard` puts together what its shards left."""
    shard: int | None = Field(default=None, ge=0)
    """Which part this process does, counted from 0; None for the stage as a whole."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Parameters of the run, as `Params` has them; `run_stage` checks them before any work is done."""
    launch: str = ""
    """Which start of the stage this is (its pod's name), for a launcher that must know whose result it finds."""

    @property
    def run_dir(self) -> str:
        """Where the stages of this run leave their results."""
        return run_dir(self.store, self.use_case, self.pipeline, self.run_id)

    @property
    def stage_dir(self) -> str:
        """Where this stage leaves its result; a shard leaves its own below the stage's."""
        return self.shard_dir(self.stage, self.shard)

    def shard_dir(self, stage: str, shard: int | None) -> str:
        """Where a stage of this run, or one shard of it, leaves its result."""
        return f"{self.run_dir}/{stage}" + ("" if shard is None else f"/shard-{shard}")

    @property
    def job(self) -> str:
        """A name that every try of this stage of this run has, and no other."""
        return hashlib.sha256(self.stage_dir.encode()).hexdigest()[:24]

    @property
    def work_name(self) -> str:
        """Name of the folder that the stage may have on a machine's own disk while it works."""
        return f"sluice-{self.job}"

    def in_shards(self) -> list["JobSpec"]:
        """The specs of the stage's shards and of the stage, in the order that they are run in; of the stage alone where it has none."""
        n_shards = self.shards if self.stage in SHARDED or self.stage == TUNE else 1
        alone = self.model_copy(update={"shards": n_shards})
        if n_shards == 1:
            return [alone]
        # What puts the shards together is one process, whatever they are.
        return [*(alone.model_copy(update={"shard": shard}) for shard in range(n_shards)), alone.model_copy(update={"workers": 1})]


class Params(Contract):
    """What a run may be told beside its partition: by a person, or by the DAG. The form of the training DAG has the same bounds."""

    model_config = ConfigDict(strict=True)

    window: int | None = Field(default=None, ge=1, le=3660)
    """Partitions to train on, in place of training.window."""
    epochs: int | None = Field(default=None, ge=1, le=10_000)
    """Epochs to train at most, in place of training.epochs."""
    force: bool = False
    """Whether a run for an old partition may replace a champion that was trained on newer data."""
    reason: str | None = Field(default=None, max_length=500)
    """Why the run was started."""
    trainings_in_flight: int = Field(default=0, ge=0)
    """Trainings of the use case that are queued or running; the DAG counts them for `decide`."""
    retrainings_known: int | None = Field(default=None, ge=0)
    """Retrainings in the ledger when they were counted; those there are, where None."""

    @classmethod
    def checked(cls, given: Mapping[str, JsonValue]) -> Self:
        """`given` as parameters. Raises `ConfigError` with the name, the rule and the remedy of each that breaks one."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError("; ".join(_wrong_param(cls, e["loc"][0], e["type"], e["msg"], e["input"]) for e in error.errors())) from error


class JobResult(Contract):
    """What a stage did; `result.json`."""

    stage: str
    status: Literal["done", "held"] = "done"
    reason: str = ""
    """Why it was held, or one sentence on what was done."""
    figures: dict[str, JsonValue] = Field(default_factory=dict)
    """Small numbers and names a person wants to see. Never a row of data."""
    outputs: dict[str, JsonValue] = Field(default_factory=dict)
    """What the next stages read: references, never data."""
    links: dict[str, str] = Field(default_factory=dict)
    """Link text to URL, or to a path below the store (served by the Sluice page)."""
    seconds: float = 0.0
    launch: str = ""
    """The start of the stage that left it, as its spec names it."""
    usage: dict[str, JsonValue] = Field(default_factory=dict)
    """What all its processes and tries used until it ended: seconds, CPU, GPU, memory, and the price in each of the profile's clouds; of
    that, apart, what was lost to failed tries."""


class DatasetRef(Contract):
    """An immutable dataset: training reads this, never "the latest". It says all that reading the rows again takes."""

    use_case: str
    table: str
    version: int
    """Version of the Delta table."""
    partitions: tuple[str, ...]
    """The partitions in the window, oldest first."""
    columns: tuple[str, ...] = ()
    """The columns of its rows beside `row_id` and `partition_key`."""
    sides: dict[str, str] | None = None
    """Partition to side, where the split goes by time; the rows say it themselves where it does not."""
    n_rows: int
    config_hash: str
    """Hash of the label, split and feature settings."""
    content_hash: str
    """Hash of the partitions' rows and the settings: equal hashes mean equal rows. The version is not in it, since writing any
    other partition moves the version."""


class ModelRef(Contract):
    """A registered model version and where its package lies."""

    name: str
    version: int
    package: str
    """Path of the package below the store."""
    run_id: str
    """The MLflow run that trained it."""


class GateResult(Contract):
    """One row of a gate's report."""

    gate: str
    verdict: Verdict
    figure: float | None
    bound: float | None
    reason: str


def _wrong_param(params: type[Params], name: object, kind: str, rule: str, value: object) -> str:
    if kind == "extra_forbidden":
        return f"parameter {name!r}: unknown; known are {', '.join(params.model_fields)}. Fix the spelling or leave it out"
    return f"parameter {name!r}: {rule} (found {value!r:.80}); change the value or leave it out"


def run_dir(store: str, use_case: str, pipeline: Pipeline, run_id: str) -> str:
    """Folder of a run's results. A run id is user input, so it is made safe as a folder's name."""
    return f"{store.rstrip('/')}/{use_case}/runs/{pipeline}/{safe_name(run_id)}"


class Firing(Contract):
    """A retraining that drift has fired."""

    partition_key: str
    """The partition it was fired for."""
    run_id: str
    """The run of the training DAG."""
    model_version: int
    """The champion whose answers had drifted."""
    at: float
    """When, in seconds since 1970."""


class Ledger(Contract):
    """Every retraining of a use case that drift has fired, in the order of firing.

    The task `retrain` alone adds to it, by compare-and-swap; the governor counts it. A decision says how many retrainings it
    knew of, and fires nothing once there are more: of two partitions decided on at the same time one trains.
    """

    fired: tuple[Firing, ...] = ()

    def of(self, partition_key: str) -> Firing | None:
        """The retraining that was fired for the partition."""
        return next((firing for firing in self.fired if firing.partition_key == partition_key), None)

    def with_one_more(self, firing: Firing, n_known: int) -> Self:
        """The ledger with `firing`, whose decision knew of `n_known`; itself where it is in there. Raises `Held` where there are others."""
        if (there := self.of(firing.partition_key)) is not None and there.run_id == firing.run_id:
            return self
        if len(self.fired) != n_known:
            newest = self.fired[-1]
            raise Held(
                f"a retraining was fired for {newest.partition_key} (run {newest.run_id}) after this was decided; clear `decide` to decide anew"
            )
        return self.model_copy(update={"fired": (*self.fired, firing)})


LATEST_REPORT = "reports/latest.html"
"""The newest drift report, in the use case's folder in the store: an address that can be given before there is one."""

LEDGER = "retrainings.json"
"""The ledger's name in the use case's folder in the store."""


def safe_name(text: str) -> str:
    """`text` as a file name: letters, digits, `.`, `-`, `_`, `+`. Where that changes it, a hash keeps two texts apart."""
    safe = re.sub(r"[^A-Za-z0-9._+-]", "_", text)[:160].lstrip(".")
    if safe == text and safe:
        return safe
    return f"{safe}-{hashlib.sha256(text.encode('utf-8')).hexdigest()[:8]}"


def dag_id(use_case: str, pipeline: Pipeline) -> str:
    """The id of a use case's DAG."""
    return f"{use_case}__{pipeline}"
