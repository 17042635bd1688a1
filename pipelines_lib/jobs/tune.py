"""One trial of a tuning, alone or as one rank of several; or, without a shard, the choice of the best.

python -m pipelines_lib.jobs.tune --spec spec.json
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, get_args

from pydantic import JsonValue

from pipelines_lib.config import Prices
from pipelines_lib.connections import connection
from pipelines_lib.contracts import JobResult
from pipelines_lib.cost import price, usage
from pipelines_lib.errors import BadInput, ConfigError, DataError, Unavailable
from pipelines_lib.jobs.stage import Stage, is_first_rank, log, run_stage
from pipelines_lib.jobs.train import fit, kept_at, together
from pipelines_lib.jobs.tuned import study_name, with_settings
from pipelines_lib.store import read_json, write_json, write_text
from pipelines_lib.training.checkpoints.files import place_of
from pipelines_lib.training.observer import Observer, Pace
from pipelines_lib.training.progress import Stopped
from pipelines_lib.training.study import State, Study, Trial, best
from pipelines_lib.training.trials_page import trials_page
from pipelines_lib.use_case import Tuning
from pipelines_lib.use_case.base import duration_text

_PLAN = "trial.json"
"""In a trial's folder: what its first rank found there is to do, for the others."""
_SECONDS_FOR_PLAN = 120.0
_SECONDS_BETWEEN_QUESTIONS = 10.0
"""Whether what the trials may take is spent: as often as their processes say what they use."""


def main(stage: Stage) -> JobResult:
    """Do the trial of this shard, or pick the best."""
    tuning = stage.use_case.tuning
    if tuning is None:
        raise ConfigError(f"{stage.use_case.name} has no `tuning:`, so there is nothing to try; add it, or run train")
    if not is_first_rank():
        return _follow(stage, tuning)
    with _study(stage, tuning) as study:
        return _pick(stage, study) if stage.spec.shard is None else _trial(stage, tuning, study, stage.spec.shard)


def _study(stage: Stage, tuning: Tuning) -> Study:
    profile = stage.profile
    url = profile.tuning_storage
    if profile.tuning_connection is not None:
        url = connection(profile.tuning_connection).url().render_as_string(hide_password=False)
    return Study(url, study_name(stage), tuning, stage.use_case.training, epochs=_epochs(stage, tuning))


def _epochs(stage: Stage, tuning: Tuning) -> int:
    return tuning.epochs or stage.use_case.training.epochs


class _Pruned(Exception):
    """The pruner gave the trial up, or what the trials may take is spent."""


@dataclass(frozen=True)
class _Reports(Observer):
    """Tells the study how a trial goes."""

    study: Study
    task: int

    def epoch(self, entry: Mapping[str, float]) -> Exception | None:
        """Ends the trial where it falls behind."""
        number, loss = int(entry["epoch"]), entry["validation_loss"]
        return _Pruned(f"given up after epoch {number}") if self.study.report(self.task, number, loss) else None


class _Limits(Observer):
    """Ends a trial when what the trials may take together is spent."""

    def __init__(self, spent: Callable[[], str]) -> None:
        self._spent = spent
        self._asked = time.monotonic()

    def progress(self, pace: Pace) -> Exception | None:  # noqa: ARG002 - the signature of an observer
        """Now and then, since the records of all trials are read for it."""
        if time.monotonic() - self._asked < _SECONDS_BETWEEN_QUESTIONS:
            return None
        self._asked = time.monotonic()
        spent = self._spent()
        return _Pruned(spent) if spent else None


def _trial(stage: Stage, tuning: Tuning, study: Study, task: int) -> JobResult:
    """The first rank's part of a trial."""
    if not study.has_begun(task) and (spent := _spent(stage, tuning, study)):
        _plan(stage, None)
        return _said(None, f"skipped: {spent}")
    trial = study.begin(task)
    if trial.state != "unfinished":
        _plan(stage, None)
        return _said(trial, trial.reason)
    log.info("trial %d of %d tries %s", task + 1, stage.spec.shards, _in_words(trial.values))
    _plan(stage, trial.values)
    with _together(stage, tuning, trial.values) as train:
        try:
            trial = study.end(task, "completed", loss=train([_Reports(study, task), _Limits(lambda: _spent(stage, tuning, study))]))
        except _Pruned as pruned:
            trial = study.end(task, "pruned", reason=str(pruned))
        except BadInput as error:
            # Settings under which the loss explodes are an answer, too.
            log.warning("%s: %s", type(error).__name__, error)
            trial = study.end(task, "failed", reason=str(error))
    checkpoints = place_of(*kept_at(stage))
    checkpoints.remove(checkpoints.files())
    return _said(trial, trial.reason)


def _follow(stage: Stage, tuning: Tuning) -> JobResult:
    """The other ranks' part, which is to train along."""
    if (values := _planned(stage)) is not None:
        with _together(stage, tuning, values) as train:
            try:
                train([])
            except (Stopped, BadInput) as error:
                log.info("the trial has ended: %s", error)
    return JobResult(stage="tune")


@contextmanager
def _together(stage: Stage, tuning: Tuning, values: Mapping[str, JsonValue]) -> Iterator[Callable[[Sequence[Observer]], float]]:
    """Meet the other ranks, and give the function that trains with `values`, told to observers, and returns the best validation loss.

    A machine that lacks the device is no answer about the settings: what the meeting raises leaves the trial unfinished.
    """
    tried = with_settings(stage, {**values, "epochs": _epochs(stage, tuning)})
    with together(tried) as (ranks, watchdog):
        yield lambda observers: fit(tried, ranks, observers, watchdog=watchdog).progress.best_loss


def _plan(stage: Stage, values: Mapping[str, JsonValue] | None) -> None:
    write_json(stage.folder / _PLAN, {"launch": stage.meter.now().launch, "values": None if values is None else dict(values)})


def _planned(stage: Stage) -> dict[str, JsonValue] | None:
    """What the first rank of this launch found to do. Raises `Unavailable` where it does not say."""
    until = time.monotonic() + _SECONDS_FOR_PLAN
    while time.monotonic() < until:
        if (path := stage.folder / _PLAN).exists():
            plan: Any = read_json(path)
            if plan["launch"] == stage.meter.now().launch:
                return plan["values"]  # type: ignore[no-any-return]
        time.sleep(0.1)
    raise Unavailable(f"the first rank has not begun the trial of {stage.folder} in {_SECONDS_FOR_PLAN:.0f} s; run it again")


def _spent(stage: Stage, tuning: Tuning, study: Study) -> str:
    """Why no further trial begins or goes on, or nothing. One is always completed."""
    prices = None if tuning.cost is None else _prices(stage)
    if (tuning.time is None and tuning.cost is None) or best(study.trials()) is None:
        return ""
    records = [used for folder in usage.of_stage(stage.folder_of("tune")) for used in folder]
    # A trial takes as long as its first rank does.
    seconds = sum(used.seconds for used in records if used.rank == 0)
    if tuning.time is not None and seconds >= tuning.time.total_seconds():
        return f"the trials have taken {seconds:.0f} s, and tuning.time is {duration_text(tuning.time)}"
    cost = 0.0 if prices is None else sum(price(used, prices) for used in records)
    if tuning.cost is not None and prices is not None and cost >= tuning.cost:
        return f"the trials have cost {cost:.4g} {prices.currency}, and tuning.cost is {tuning.cost:g}"
    return ""


def _prices(stage: Stage) -> Prices:
    profile = stage.profile
    if profile.cloud is None:
        raise ConfigError(
            f"{stage.use_case.name} sets tuning.cost, and profile {profile.name} names no cloud whose prices count; set its `cloud` and `prices`, "
            "or set tuning.time instead"
        )
    return profile.prices[profile.cloud]


def _said(trial: Trial | None, reason: str) -> JobResult:
    """What a trial says of itself."""
    if trial is None:
        return JobResult(stage="tune", reason=reason, figures={"state": "skipped"})
    loss = "" if trial.loss is None else f" with a validation loss of {trial.loss:.4g}"
    return JobResult(
        stage="tune",
        reason=f"trial {trial.task + 1} is {trial.state}{loss}" + (f": {reason}" if reason else ""),
        figures={"state": trial.state, "loss": trial.loss, "epochs": len(trial.losses), **trial.values},
    )


def _pick(stage: Stage, study: Study) -> JobResult:
    """The best trial's settings, and a table of all trials. Raises `DataError` where none was completed."""
    trials = [trial for trial in study.trials() if trial.task < stage.spec.shards]
    first = best(trials)
    page = stage.folder / "trials.html"
    write_text(page, trials_page(f"{stage.use_case.title}: trials", stage.spec.shards, trials, first))
    write_json(stage.folder / "trials.json", [asdict(trial) | {"losses": list(trial.losses)} for trial in trials])
    for trial in trials:
        loss = "" if trial.loss is None else f"{trial.loss:.4g}"
        log.info("%s trial %-4d %-10s %-10s %s", "→" if trial is first else " ", trial.task + 1, trial.state, loss, _in_words(trial.values))
    if first is None:
        raise DataError(_none_completed(stage, trials))
    return JobResult(
        stage="tune",
        reason=f"trial {first.task + 1} of {stage.spec.shards} is the best, with a validation loss of {first.loss:.4g}: {_in_words(first.values)}",
        figures={
            "trials": stage.spec.shards,
            **{state: sum(trial.state == state for trial in trials) for state in get_args(State)},
            "skipped": stage.spec.shards - len(trials),
            "best_trial": first.task + 1,
            "best_loss": first.loss,
            "first_loss": next((trial.loss for trial in trials if trial.task == 0), None),
            **first.values,
        },
        outputs={"study": study.name, "trial": first.task + 1, "values": first.values},
        links={"Trials": stage.below(page)},
    )


def _none_completed(stage: Stage, trials: Sequence[Trial]) -> str:
    reasons = Counter(trial.reason or trial.state for trial in trials)
    told = "; ".join(f"{reason} ({n}×)" for reason, n in reasons.most_common(3)) or "none has begun"
    return (
        f"none of the {stage.spec.shards} trials was completed, so there is nothing to choose from: {told}. The logs of tune_trials have more; "
        "mend what they say, or change tuning.space, and run the trials again"
    )


def _in_words(values: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())


if __name__ == "__main__":
    run_stage(main)
