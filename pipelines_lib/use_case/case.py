"""A use case as a whole: `use_case.yaml`."""

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case.base import Settings, connections_in
from pipelines_lib.use_case.cleaning import CleaningStep
from pipelines_lib.use_case.columns import RESERVED_COLUMNS, Column, ColumnType, PrivacyRole, Role
from pipelines_lib.use_case.gate import Gate
from pipelines_lib.use_case.joins import Join
from pipelines_lib.use_case.label import Label
from pipelines_lib.use_case.monitoring import Monitoring
from pipelines_lib.use_case.privacy import Privacy
from pipelines_lib.use_case.quality import Quality
from pipelines_lib.use_case.rules import FieldErrors, disagreements
from pipelines_lib.use_case.schedule import Schedule
from pipelines_lib.use_case.serving import Deployment
from pipelines_lib.use_case.source import Source
from pipelines_lib.use_case.split import Split
from pipelines_lib.use_case.training import Training
from pipelines_lib.use_case.tuning import Tuning

Task = Literal["binary", "multiclass", "multilabel", "regression"]

HIGHER_IS_BETTER = {
    "roc_auc": True,
    "average_precision": True,
    "f1": True,
    "accuracy": True,
    "macro_f1": True,
    "micro_f1": True,
    "log_loss": False,
    "brier": False,
    "calibration_error": False,
    "rmse": False,
    "mae": False,
    "pinball_10": False,
    "pinball_90": False,
    "ndcg": True,
    "recall": True,
    "map": True,
}
METRICS: dict[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "average_precision", "log_loss", "brier", "calibration_error", "f1", "accuracy"),
    "multiclass": ("accuracy", "macro_f1", "roc_auc", "log_loss", "brier", "calibration_error"),
    "multilabel": ("micro_f1", "macro_f1", "average_precision"),
    "regression": ("rmse", "mae", "pinball_10", "pinball_90"),
}
OF_LISTS = ("ndcg", "recall", "map")
"""Metrics of lists, for a model with `type: ranking` whose rows belong to entities."""


class UseCase(Settings):
    """One prediction problem: `include/use_cases/<name>/use_case.yaml`."""

    name: str = Field(pattern=r"^[a-z]([a-z0-9_]{0,38}[a-z0-9])?$")
    """The folder's name: lower-case letters, digits and underscores, with no underscore at the end, since objects of a cluster are called by it."""
    title: str
    description: str = ""
    owner: str
    """Who is asked when a run fails."""
    task: Task
    partition: Literal["day", "hour"] = "day"
    start: dt.date
    """The first partition."""
    shards: int = Field(default=1, ge=1, le=1000)
    """Into how many tasks `validate` and `prepare` split a partition, for partitions that one machine takes too long for. What they
    write is the same rows."""
    end: dt.date | None = None
    """The last partition, where the data ends; nothing is scheduled after it. A replay ends by itself."""
    schedule: Schedule = Schedule()
    source: Source
    joins: list[Join] = Field(default_factory=list)
    """Further sources, joined to the rows in this order."""
    columns: dict[str, Column]
    privacy: Privacy = Privacy()
    quality: Quality = Quality()
    clean: list[CleaningStep] = Field(default_factory=list)
    label: Label
    split: Split = Split()
    training: Training = Training()
    tuning: Tuning | None = None
    """The search for better settings of `training:`, before it; none when absent."""
    budget: float | None = Field(default=None, gt=0)
    """What one run of the training pipeline may cost, all its stages and their tries together, in the currency of the profile's cloud.
    It ends as held before it would pass that; none when absent."""
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
        """Names of the feature columns (of these types), in the order written; a treatment is one."""
        return [name for name in self.columns_with("feature", "treatment") if not types or self.columns[name].type in types]

    @property
    def feature_types(self) -> dict[str, ColumnType]:
        """The feature columns and what they hold, in the order written."""
        return {name: self.columns[name].type for name in self.features()}

    def private(self, *roles: PrivacyRole) -> list[str]:
        """Names of the columns that are about a person (in one of these ways), in the order written."""
        return [name for name, c in self.columns.items() if c.privacy is not None and (not roles or c.privacy in roles)]

    def hashed(self) -> list[str]:
        """Names of the columns that hold hashes, in the order written."""
        return [name for name, c in self.columns.items() if (done := c.protection) is not None and done.hash]

    @property
    def written(self) -> dict[str, Column]:
        """The columns that are written: all but the dropped ones."""
        return {name: c for name, c in self.columns.items() if (done := c.protection) is None or not done.drop}

    @property
    def series(self) -> dict[str, tuple[str, ...]]:
        """Each sensor's columns in the order of time, as `training.model.series` names them."""
        return {name: tuple(_window(given, self.columns)) for name, given in self.training.model.series.items()}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that fit its task."""
        return METRICS[self.task] + (OF_LISTS if self.ranks_lists else ())

    @property
    def ranks_lists(self) -> bool:
        """Whether what is offered to one entity is a list, whose order counts."""
        return self.training.model.type == "ranking" and self.entity is not None

    @property
    def item_columns(self) -> tuple[str, ...]:
        """The features that say what an item is that the service may recommend; empty where it recommends nothing."""
        asked = self.deployment.recommend
        if asked is None:
            return ()
        own = [asked.item] if asked.item in self.features() else []
        return tuple(dict.fromkeys([*own, *(asked.columns or self.training.model.item)]))

    @property
    def answers(self) -> Literal["service", "batch"]:
        """Whose answers monitoring looks at."""
        return self.monitoring.answers or ("batch" if self.deployment.batch else "service")

    @property
    def entity(self) -> str | None:
        """The column that says whose row it is."""
        return next(iter(self.columns_with("entity")), None)

    @property
    def treatment(self) -> str | None:
        """The column that says which arm a row is of."""
        return next(iter(self.columns_with("treatment")), None)

    @property
    def owner_column(self) -> str | None:
        """The column whose values the split keeps together; None where it goes by row or time."""
        return {"entity": self.entity, "group": self.split.group}.get(self.split.by)

    @property
    def gap(self) -> int:
        """Partitions that a split by time leaves out before validation and before test."""
        return self.horizon if self.split.gap is None else self.split.gap

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

    @property
    def horizon(self) -> int:
        """Partitions that must have passed before a label is known."""
        return self.label.horizon_of(self.partition_step)

    @property
    def reach(self) -> int:
        """How many partitions later something may still come that changes a label."""
        return self.label.reach_of(self.partition_step)

    def shift(self, key: str, partitions: int) -> str:
        """The key `partitions` after `key` (before it, where negative)."""
        return (self.partition_time(key) + partitions * self.partition_step).strftime(self.key_format)

    @property
    def last_day(self) -> dt.date | None:
        """Day of the last partition, or None where new ones keep coming."""
        if self.end is not None or self.source.replay is None:
            return self.end
        return self.start + (self.source.replay.partitions - 1) * self.partition_step

    def markers(self, name: str) -> list[str]:
        """The texts that mean "missing" in a column, beside the usual ones: those that `to_missing` steps name."""
        return [str(value) for step in self.clean for value in (step.to_missing or {}).get(name, [])]

    def connections(self, stage: str) -> list[str]:
        """Names of the connections that `stage` needs, sorted: what it reads from outside, and the key of the hashes it makes."""
        reads: dict[str, list[Settings]] = {"ingest": [self.source, *self.joins, self.label]}
        if self.hashed():
            # The service, which deploy starts, hashes what a request brings.
            for hashing in ("ingest", "deploy"):
                reads.setdefault(hashing, []).append(self.privacy)
        if self.deployment.token is not None:
            for asking in ("deploy", "verify"):
                reads.setdefault(asking, []).append(self.deployment.token)
        if self.deployment.edge is not None:
            # The first stage of a training looks at the key, so that none is missing at its end.
            for signing in ("snapshot", "release"):
                reads.setdefault(signing, []).append(self.deployment.edge)
        return sorted(set(connections_in(reads.get(stage, []))))

    def data_hash(self) -> str:
        """Hash of what decides the content of a training row: how series are made into rows and sources joined, columns, cleaning, label,
        split, and whose hashes they are.

        Where the rows, what is joined to them and ground truth are read and whom people are asked about do not; what comes of it stands in the rows.
        """
        parts = self.model_dump(
            mode="json",
            include={"columns", "joins", "clean", "label", "split", "task"},
            exclude={"label": {"review": True, "join": {"source"}}, "joins": {"__all__": {"source"}}},
        )
        if self.label.separator is None:  # older than this setting are many tables, whose rows it did not change
            del parts["label"]["separator"]
        made = [source.sensors for source in (self.source, *(join.source for join in self.joins))]
        parts["sensors"] = [None if sensors is None else sensors.model_dump(mode="json") for sensors in made]
        if self.hashed():
            parts["domain"] = self.privacy.domain or self.name
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _window(given: list[str] | str, columns: Iterable[str]) -> list[str]:
    """The columns that `heat_{step}` stands for among `columns`, by number; a list as it is."""
    if isinstance(given, list):
        return given
    pattern = re.compile(re.escape(given).replace(re.escape("{step}"), r"(\d+)", 1))
    steps = {int(match[1]): name for name in columns if (match := pattern.fullmatch(name)) and match.groups()}
    return [steps[step] for step in sorted(steps)]
