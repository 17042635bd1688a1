"""What a use case says in its `use_case.yaml`. Every setting's doc stands under it.

Read at every DAG parse, so it imports pydantic and croniter alone.
"""

import datetime as dt
import hashlib
import json
import re
from typing import Annotated, Any, Literal, Self

from croniter import croniter
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case_rules import FieldErrors, disagreements

Task = Literal["binary", "multiclass", "regression"]
ColumnType = Literal["integer", "number", "string", "text", "boolean", "timestamp"]
Role = Literal["feature", "entity", "time", "key", "label", "other"]

HIGHER_IS_BETTER = {
    "roc_auc": True,
    "average_precision": True,
    "accuracy": True,
    "macro_f1": True,
    "log_loss": False,
    "rmse": False,
    "mae": False,
}
METRICS: dict[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "average_precision", "log_loss", "accuracy"),
    "multiclass": ("accuracy", "macro_f1", "log_loss"),
    "regression": ("rmse", "mae"),
}


class Settings(BaseModel):
    """Frozen, no unknown keys, every default checked like a given value."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


# --- the parts of a use case ------------------------------------------------------------------------------------


class Schedule(Settings):
    """Cron expressions in UTC; `null` leaves the DAG to manual runs, backfills and triggers.

    `data` and `monitoring` come once a partition: a tick runs the partition that holds the tick before it. With
    `partition: hour` they are "5 * * * *" and "35 * * * *" where nothing else is said.
    """

    data: str | None = "0 2 * * *"
    """When the partition that has just closed is ingested."""
    training: str | None = "0 4 * * 1"
    """When a regular training starts, beside those that drift fires."""
    monitoring: str | None = "0 6 * * *"
    """When the partition that has just closed is compared with what the champion was trained on."""

    @field_validator("data", "training", "monitoring")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        if value is not None and not (len(value.split()) == 5 and croniter.is_valid(value)):
            raise ValueError(
                f"{value!r} is not a schedule; write a cron expression of five fields such as '0 2 * * *' (daily at 02:00 UTC), or null"
            )
        return value


class Csv(Settings):
    """How a CSV file is written down. What is not said here is detected."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """One ASCII character; detected when absent."""
    encoding: str | None = None
    """A Python codec name; UTF-8 (with or without BOM) is tried first, then detected, when absent."""
    header: bool = True
    """Whether the first line names the columns. Without a header columns are called c0, c1, …"""

    @field_validator("delimiter")
    @classmethod
    def _separates_cells(cls, value: str | None) -> str | None:
        if value is not None and (not value.isascii() or value in '"\r\n\0'):
            raise ValueError(
                f"{value!r} can't separate cells: a delimiter is one ASCII character that is no line end and no quote, such as ',', ';' or '\\t'; "
                "write one of these, or leave it out to have it detected"
            )
        return value


class Replay(Settings):
    """One finished file, played back as daily (or hourly) partitions from the use case's `start`."""

    partitions: int = Field(default=14, ge=1)
    """Over how many partitions the file's rows are spread evenly."""
    seed: int | None = 0
    """Seed of the shuffle that decides which row falls on which partition; null keeps the file's order."""


class Source(Settings):
    """Where a partition's rows come from."""

    path: str
    """A file, relative to the project's folder or absolute; `{partition}` and `{home}` (the state folder) are filled in."""
    csv: Csv = Csv()
    replay: Replay | None = None
    """Set where `path` is one finished file rather than one file a partition."""
    land: bool = False
    """Whether `hooks.py` has `land(partition_key, path, params)`, which collects the partition's file before it is read."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Handed to `land`."""

    @model_validator(mode="after")
    def _one_way_to_partition(self) -> Self:
        if self.replay is None and "{partition}" not in self.path:
            raise ValueError(
                "path must contain {partition} (one file a partition), or `replay` must say how one file is spread over partitions"
            )
        if self.replay is not None and "{partition}" in self.path:
            raise ValueError("`replay` spreads one file over partitions, so path must not contain {partition}; remove one of the two")
        return self


class Column(Settings):
    """One column of the data, under the name that the rest of the use case uses."""

    type: ColumnType
    """`string` is a category (few values), `text` is language."""
    role: Role = "feature"
    """`entity`: whose row it is (splits keep an entity together); `time`: when it happened; `key`: identifies the row;
    `label`: what the label is made of, never a feature; `other`: kept, not used."""
    source: str | None = None
    """The column's name in the source, where it differs."""
    nullable: bool = True
    """Whether a row may lack the value; a row that lacks it where it may not goes to quarantine."""


class Quality(Settings):
    """The gate between `raw` and `clean`."""

    max_quarantined: float = Field(default=0.05, ge=0, le=1)
    """Share of a partition's rows that may be quarantined before the partition is held."""
    expectations: list[dict[str, dict[str, Any]]] = Field(default_factory=list)
    """Great Expectations by their own names and arguments, one a list item: `- expect_column_values_to_be_between: {column: price, min_value: 0}`."""

    @field_validator("expectations")
    @classmethod
    def _one_each(cls, value: list[dict[str, dict[str, Any]]]) -> list[dict[str, dict[str, Any]]]:
        for item in value:
            if len(item) != 1 or not re.fullmatch(r"expect_[a-z0-9_]+", next(iter(item))):
                raise ValueError(
                    f"{sorted(item)} is not one expectation; write `- expect_…: {{column: …}}` with the name Great Expectations gives it"
                )
        return value


class CleaningStep(Settings):
    """One step, done in the order written; exactly one of the fields is set."""

    deduplicate: list[str] | None = None
    """Keep the first of the rows that agree on these columns."""
    fill: dict[str, str | float | int] | None = None
    """Column to the constant that stands in for a missing value."""
    clip: dict[str, tuple[float, float]] | None = None
    """Column to the lower and upper bound its values are moved to."""
    drop_missing: list[str] | None = None
    """Drop the rows that lack any of these columns."""
    to_missing: dict[str, list[str | float | int]] | None = None
    """Column to the values that mean "missing" in it (zeros, "****")."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a cleaning step does one thing, this one names {given or 'none'}; write one list item a step")
        return self

    def columns(self) -> list[str]:
        """The columns the step names."""
        [value] = [v for name in type(self).model_fields if (v := getattr(self, name)) is not None]
        return list(value)


class Label(Settings):
    """What is predicted."""

    column: str
    """The column the label is made from; its role must be `label`."""
    map: dict[str, str] | None = None
    """Value to class. A row whose value is not listed is quarantined."""
    positive: str | None = None
    """The class whose probability is predicted; binary tasks only, and required there."""
    horizon: int = Field(default=0, ge=0)
    """Partitions that must have passed before the label is known."""


class Split(Settings):
    """Who trains, who stops the training early, who judges: never the same entity twice."""

    by: Literal["entity", "row", "partition"] = "row"
    """`entity`: all rows of an entity fall on one side; `row`: each row by its own hash; `partition`: the last partitions judge."""
    validation: float = Field(default=0.15, gt=0, lt=0.5)
    test: float = Field(default=0.2, gt=0, lt=0.5)
    seed: int = 0


class Training(Settings):
    """The model and the loop."""

    window: int = Field(default=14, ge=1)
    """Partitions a training reads, the newest last."""
    workers: int = Field(default=2, ge=1, le=64)
    """Processes that train together."""
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=1)
    """Rows of the global batch, over all workers."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    hidden: list[Annotated[int, Field(ge=1)]] = Field(default=[128, 64], min_length=1)
    """Widths of the hidden layers."""
    embedding: int = Field(default=8, ge=1)
    """Width of a category's embedding; text gets eight times as much."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation loss before training stops; the best epoch's weights are kept."""
    seed: int = 0
    checkpoint_steps: int = Field(default=200, ge=1)
    """Steps between checkpoints; one is also written after each epoch."""


class Gate(Settings):
    """What a challenger must show before it serves."""

    metric: str
    """The one number that decides: roc_auc, average_precision, accuracy, macro_f1, log_loss, rmse, mae."""
    floor: float
    """The worst value of `metric` that may serve (a ceiling for losses and errors)."""
    margin: float = Field(default=0.0, ge=0)
    """How much worse than the champion the challenger may be, at the lower end of the interval, where it looks worse at all."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=1000, ge=100)
    """Paired bootstrap resamples."""
    min_rows: int = Field(default=50, ge=1)
    """Rows the hold-out must have for a verdict."""


class Deployment(Settings):
    """Where the champion serves."""

    port: int | None = Field(default=None, ge=1024, le=65535)
    """Port of the local service on 127.0.0.1; a free one is picked and kept when absent."""
    approve: bool = False
    """Whether a person approves each promotion in the Airflow UI."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference between a score of the evaluation and the service's answer to the same row."""


class Monitoring(Settings):
    """When drift is worth a retraining."""

    min_rows: int = Field(default=200, ge=1)
    """Rows a partition needs before its figures count."""
    psi: float = Field(default=0.2, gt=0)
    """Population stability index from which a column has drifted."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Share of the input columns that must have drifted; drift of the predictions counts alone."""
    need: int = Field(default=2, ge=1)
    """Drifted partitions …"""
    of: int = Field(default=3, ge=1)
    """… among the last so many that make a retraining."""
    cooldown: int = Field(default=3, ge=0)
    """Partitions after a retraining in which no other is fired."""
    max_retrainings: int = Field(default=4, ge=0)
    """Retrainings fired in any 30 days."""

    @model_validator(mode="after")
    def _need_within_of(self) -> Self:
        if self.need > self.of:
            raise ValueError(f"need ({self.need}) of the last {self.of} partitions can never be met; lower need or raise of")
        return self


class UseCase(Settings):
    """One prediction problem: `include/use_cases/<name>/use_case.yaml`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """The folder's name: lower-case letters, digits and underscores."""
    title: str
    description: str = ""
    owner: str
    """Who is asked when a run fails."""
    task: Task
    partition: Literal["day", "hour"] = "day"
    start: dt.date
    """The first partition."""
    end: dt.date | None = None
    """The last partition, where the data ends; nothing is scheduled after it. A replay ends by itself."""
    schedule: Schedule = Schedule()
    source: Source
    columns: dict[str, Column]
    quality: Quality = Quality()
    clean: list[CleaningStep] = Field(default_factory=list)
    label: Label
    split: Split = Split()
    training: Training = Training()
    gate: Gate
    deployment: Deployment = Deployment()
    monitoring: Monitoring = Monitoring()

    @field_validator("columns")
    @classmethod
    def _column_names(cls, value: dict[str, Column]) -> dict[str, Column]:
        for name in value:
            if not re.fullmatch(r"[^\W\d]\w*", name):
                raise ValueError(
                    f"column {name!r}: a name holds letters, digits and underscores and starts with a letter; rename it and put the file's name under `source:`"
                )
            if name.casefold() in RESERVED_COLUMNS:
                raise ValueError(f"column {name!r}: Sluice keeps this name for itself; rename it and put the file's name under `source:`")
        return value

    @model_validator(mode="before")
    @classmethod
    def _schedule_of_hours(cls, given: Any) -> Any:
        """The schedules' defaults follow the partitions' length."""
        if isinstance(given, dict) and given.get("partition") == "hour" and isinstance(schedule := given.get("schedule", {}), dict):
            return {**given, "schedule": {"data": "5 * * * *", "monitoring": "35 * * * *", **schedule}}
        return given

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        problems = list(disagreements(self))
        if problems:
            raise FieldErrors(problems)
        return self

    # What the other modules ask of a use case.

    def columns_with(self, *roles: Role) -> list[str]:
        """Names of the columns with one of `roles`, in the order written."""
        return [name for name, column in self.columns.items() if column.role in roles]

    def features(self, *types: ColumnType) -> list[str]:
        """Names of the feature columns (of these types), in the order written."""
        return [name for name, c in self.columns.items() if c.role == "feature" and (not types or c.type in types)]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that fit its task."""
        return METRICS[self.task]

    @property
    def entity(self) -> str | None:
        """The column that says whose row it is."""
        return next(iter(self.columns_with("entity")), None)

    @property
    def key_format(self) -> str:
        """`strftime` format of a partition key."""
        return "%Y-%m-%d" if self.partition == "day" else "%Y-%m-%dT%H"

    @property
    def partition_step(self) -> dt.timedelta:
        """Length of a partition."""
        return dt.timedelta(days=1) if self.partition == "day" else dt.timedelta(hours=1)

    def partition_time(self, key: str) -> dt.datetime:
        """Start of partition `key` (naive, UTC). Raises `ConfigError` where it is no key of this use case."""
        moment: dt.datetime | None
        try:
            moment = dt.datetime.strptime(key, self.key_format)
        except ValueError:
            moment = None
        if moment is None or moment.strftime(self.key_format) != key:
            example = dt.datetime.combine(self.start, dt.time()).strftime(self.key_format)
            raise ConfigError(f"{key!r} is not a partition of {self.name}, which has one a {self.partition}; write it like {example}")
        return moment

    def shift(self, key: str, partitions: int) -> str:
        """The key `partitions` after `key` (before it, where negative)."""
        return (self.partition_time(key) + partitions * self.partition_step).strftime(self.key_format)

    @property
    def last_day(self) -> dt.date | None:
        """Day of the last partition, or None where new ones keep coming."""
        if self.end is not None or self.source.replay is None:
            return self.end
        return self.start + (self.source.replay.partitions - 1) * self.partition_step

    def data_hash(self) -> str:
        """Hash of what decides the content of a training row: columns, cleaning, label, split."""
        parts = self.model_dump(mode="json", include={"columns", "clean", "label", "split", "task"})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


RESERVED_COLUMNS = frozenset({"row_id", "partition_key", "label", "split", "reasons", "raw", "score", "prediction", "model_version"})
