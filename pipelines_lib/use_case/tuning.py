"""The search for better settings of a training: `tuning:`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from pipelines_lib.use_case.base import Duration, Settings
from pipelines_lib.use_case.training import Training

if TYPE_CHECKING:
    from pipelines_lib.use_case.case import UseCase

_FIXED = {
    "window": "the snapshot is chosen before the trials, and a trial reads the same rows as the others",
    "epochs": "tuning.epochs says how long a trial may take, and training.epochs how long the training does",
    "seed": "a better seed is luck, which the next training does not have",
    **dict.fromkeys(
        ("workers", "nodes", "device", "checkpoint_steps", "keep_checkpoints", "timeout"), "it does not change what is learned"
    ),
}
"""Settings of a training that are not searched for, and why."""


class Searched(Settings):
    """One setting that is searched for: a list of candidates, or a range."""

    values: list[JsonValue] | None = Field(default=None, min_length=2)
    """The candidates; the list alone may be written in place of all this."""
    low: int | float | None = None
    """Lowest value of a range. Both ends belong to it."""
    high: int | float | None = None
    log: bool = False
    """Whether the range is gone through by orders of magnitude."""
    step: int | float | None = Field(default=None, gt=0)
    """Distance of two candidates of the range."""

    @model_validator(mode="before")
    @classmethod
    def _list_alone(cls, given: Any) -> Any:
        return {"values": given} if isinstance(given, list) else given

    @model_validator(mode="after")
    def _list_or_range(self) -> Self:
        if (self.values is None) == (self.low is None and self.high is None):
            raise ValueError("give a list of candidates, or a range with `low` and `high`, and not both")
        if self.values is not None:
            if self.log or self.step is not None:
                raise ValueError("`log` and `step` are for a range; remove them from the list")
            if any(value in self.values[:place] for place, value in enumerate(self.values)):
                raise ValueError("a candidate is written twice; remove one")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"a range goes from `low` up to `high`, and this from {self.low} to {self.high}; correct the two")
        if self.log and self.low <= 0:
            raise ValueError(f"orders of magnitude begin above 0, and `low` is {self.low}; raise it, or remove `log`")
        if self.log and self.step is not None:
            raise ValueError("a range has either orders of magnitude or steps; remove `log` or `step`")
        return self

    def has(self, value: JsonValue) -> bool:
        """Whether `value` is one of those that may be tried."""
        if self.values is not None:
            return value in self.values
        assert self.low is not None
        assert self.high is not None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or abs((value - self.low) / self.step - round((value - self.low) / self.step)) < 1e-9

    def examples(self) -> Iterator[tuple[str | int, JsonValue]]:
        """(where it stands below this setting, value) of what must be right for all that may be tried to be right: every candidate, both ends."""
        yield from enumerate(self.values) if self.values is not None else (("low", self.low), ("high", self.high))


class Tuning(Settings):
    """Several trainings with settings of their own, of which the best is trained in full."""

    trials: int = Field(default=12, ge=2, le=1000)
    """How many settings are tried, those of `training:` among them, where the space has them."""
    parallel: int = Field(default=1, ge=1, le=64)
    """Trials at a time, as far as the profile's pool for trainings has slots. Trials one after the other know more of those before."""
    epochs: int | None = Field(default=None, ge=1)
    """At most so many epochs a trial; as many as training.epochs when absent."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Which trial ends early: one whose loss is above the median of the others after as many epochs; one that hyperband gives up; none."""
    time: Duration | None = None
    """What the trials may take together; those that would begin afterwards are left out, and those under way end within seconds. One is always completed."""
    cost: float | None = Field(default=None, gt=0)
    """What the trials may cost together, in the currency of the profile's cloud; as `time`."""
    space: dict[str, Searched] = Field(min_length=1)
    """Setting of `training:` (`learning_rate`, `model.dropout`) to what is tried for it."""


def tuned(training: Training, values: Mapping[str, JsonValue]) -> Training:
    """`training` with the settings that `values` name. Raises pydantic's `ValidationError`."""
    given = training.model_dump(exclude_unset=True)
    for name, value in values.items():
        *above, last = name.split(".")
        place = given
        for part in above:
            below = place.get(part)
            place[part] = dict(below) if isinstance(below, dict) else {}
            place = place[part]
        place[last] = value
    return Training.model_validate(given)


def setting(training: Training, name: str) -> JsonValue:
    """The value of the setting called `name`, such as `model.dropout`; None where there is none."""
    value: Any = training.model_dump(mode="json")
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value  # type: ignore[no-any-return]


def is_whole(training: Training, name: str, searched: Searched) -> bool:
    """Whether a setting that is searched for in a range is a whole number, by what it makes of the range's end."""
    assert searched.low is not None
    return type(setting(tuned(training, {name: searched.low}), name)) is int


def tuning_problems(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What of `tuning.space` is no setting of `training:`, or no value of it: (field, message)."""
    if use_case.tuning is None:
        return
    for name, searched in use_case.tuning.space.items():
        where = ("tuning", "space", name)
        if (reason := _FIXED.get(name)) is not None:
            yield where, f"training.{name} is not searched for: {reason}; remove it"
            continue
        for place, value in searched.examples():
            try:
                found = setting(tuned(use_case.training, {name: value}), name)
            except ValidationError as error:
                [first, *_] = error.errors()
                if first["type"] == "extra_forbidden":
                    yield where, _unknown(name)
                    break
                yield (*where, place), f"{value!r:.80} is no value of training.{name}: {_message(first)}; change it"
                continue
            if searched.values is None and (isinstance(found, bool) or not isinstance(found, int | float)):
                yield where, f"training.{name} is no number, so it has no range; write a list of candidates"
                break
            if searched.step is not None and isinstance(found, int) and not float(searched.step).is_integer():
                yield (
                    (*where, "step"),
                    f"training.{name} is a whole number, and a step of {searched.step} leaves it none; write a whole one",
                )
                break


def _unknown(name: str) -> str:
    part: Any = Training
    *above, _ = name.split(".")
    for field in above:
        part = part.model_fields[field].annotation if field in getattr(part, "model_fields", {}) else None
    known = ", ".join(".".join([*above, field]) for field in getattr(part, "model_fields", Training.model_fields))
    return f"training has no setting {name!r}; known are {known}. Fix the name, or remove it"


def _message(error: Any) -> str:
    cause = error.get("ctx", {}).get("error")
    return str(cause) if isinstance(cause, Exception) else str(error["msg"])
