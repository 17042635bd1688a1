"""The trials of a tuning, in a database that all of them share: an Optuna study.

Trial `n` of the study is whatever the task of that number began, once: a retry finds it there, with its settings. Optuna's own
trial numbers follow the order of beginning.
"""

import contextlib
import fcntl
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import JsonValue
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipelines_lib.errors import Unavailable
from pipelines_lib.use_case import Searched, Training, Tuning
from pipelines_lib.use_case.tuning import is_whole, setting

State = Literal["completed", "pruned", "failed", "unfinished"]

_STATES: dict[TrialState, State] = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_AT_RANDOM = 5
"""Trials whose settings are drawn before those of the rest are inferred, and that are not pruned."""
_TASK, _REASON = "task", "reason"


@dataclass(frozen=True)
class Trial:
    """One trial as it stands."""

    task: int
    state: State
    values: dict[str, JsonValue]
    """Setting to what is tried for it."""
    loss: float | None
    """The best validation loss; of a pruned trial the last one."""
    losses: tuple[float, ...]
    """The validation loss after each epoch."""
    reason: str = ""
    """Why it was pruned or failed."""


class Study:
    """The trials called `name` in the database at `url`. Raises `Unavailable` where the database does not answer."""

    def __init__(self, url: str, name: str, tuning: Tuning, training: Training, *, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name = name
        self._tuning, self._training = tuning, training
        self._distributions = {setting_: _distribution(searched, training, setting_) for setting_, searched in tuning.space.items()}
        address = make_url(url)
        self._shown = address.render_as_string(hide_password=True)
        self._lock: Path | None = None
        settings: dict[str, object] = {"pool_pre_ping": True}
        if address.get_backend_name() == "sqlite":
            assert address.database is not None
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
            self._lock = Path(f"{address.database}.lock")
            settings = {"connect_args": {"timeout": 60}}
        with self._alone():
            self._storage = optuna.storages.RDBStorage(url, engine_kwargs=settings)
            self._study = optuna.create_study(
                storage=self._storage, study_name=name, pruner=_pruner(tuning, epochs), direction="minimize", load_if_exists=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._storage.scoped_session.remove()
        self._storage.engine.dispose()

    def trials(self) -> list[Trial]:
        """Every trial that has begun, by task."""
        with self._alone():
            found = self._study.get_trials(deepcopy=False)
        return sorted((self._as_it_stands(trial) for trial in found if _TASK in trial.user_attrs), key=lambda trial: trial.task)

    def has_begun(self, task: int) -> bool:
        """Whether the task has a trial."""
        return any(trial.task == task for trial in self.trials())

    def begin(self, task: int) -> Trial:
        """The trial of a task: the one that it has, or a new one. Task 0 tries the settings as they are written, where the space has them.

        Settings are chosen by the tree-structured Parzen estimator (Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization), with
        trials that still run taken for bad ones, so that parallel trials differ. A seed of its own for each task makes what trials that run one
        after the other try a function of the training's seed.
        """
        with self._alone():
            found = self._found(task)
            if found is None or not found.state.is_finished():
                self._study.sampler = optuna.samplers.TPESampler(n_startup_trials=_AT_RANDOM, seed=_seed(self._training.seed, task))
                number = self._new(task) if found is None else found._trial_id
                # What `Study.ask` does, but for a trial that may have been begun before: it keeps the settings that it has.
                trial = optuna.Trial(self._study, number)
                for name, distribution in self._distributions.items():
                    _suggest(trial, name, distribution)
            return self._as_it_stands(self._of(task))

    def report(self, task: int, epoch: int, loss: float) -> bool:
        """Note the validation loss after an epoch, counted from 1; returns whether the trial should end early."""
        with self._alone():
            known = self._of(task)
            trial = optuna.Trial(self._study, known._trial_id)
            if epoch - 1 not in known.intermediate_values:
                trial.report(loss, epoch - 1)
            return bool(trial.should_prune())

    def end(self, task: int, state: State, *, loss: float | None = None, reason: str = "") -> Trial:
        """End a trial, once; returns it as it stands."""
        optunas = next(known for known, ours in _STATES.items() if ours == state)
        with self._alone():
            trial = self._of(task)
            if not trial.state.is_finished():
                if reason:
                    self._study._storage.set_trial_user_attr(trial._trial_id, _REASON, reason)
                self._study.tell(trial.number, loss, state=optunas)
            return self._as_it_stands(self._of(task))

    def _new(self, task: int) -> int:
        written = {name: setting(self._training, name) for name in self._tuning.space}
        as_written = task == 0 and all(searched.has(written[name]) for name, searched in self._tuning.space.items())
        fixed = {name: _stored(self._distributions[name], value) for name, value in written.items()} if as_written else {}
        # In one write, with the task that it belongs to: a process that is killed here leaves a whole trial or none.
        template = create_trial(state=TrialState.RUNNING, user_attrs={_TASK: task}, system_attrs={"fixed_params": fixed} if fixed else {})
        return int(self._study._storage.create_new_trial(self._study._study_id, template))

    def _found(self, task: int) -> FrozenTrial | None:
        return next((trial for trial in self._study.get_trials(deepcopy=False) if trial.user_attrs.get(_TASK) == task), None)

    def _of(self, task: int) -> FrozenTrial:
        found = self._found(task)
        assert found is not None, f"task {task} has no trial"
        return found

    def _as_it_stands(self, trial: FrozenTrial) -> Trial:
        values = {name: _read(self._distributions[name], value) for name, value in trial.params.items()}
        losses = tuple(trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values))
        state = _STATES.get(trial.state, "unfinished")
        return Trial(int(trial.user_attrs[_TASK]), state, values, trial.value, losses, str(trial.user_attrs.get(_REASON, "")))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time, where the database is SQLite: it refuses at once a transaction that has read before another wrote."""
        try:
            if self._lock is None:
                yield
                return
            with self._lock.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            # SQLAlchemy's messages may quote the address, whose password is nobody's business.
            raise Unavailable(
                f"the database of the trials, {self._shown}, did not answer ({type(error).__name__}); see that it runs, and run the stage again"
            ) from None


def _distribution(searched: Searched, training: Training, name: str) -> BaseDistribution:
    if searched.values is not None:
        # As text: Optuna's candidates are plain values, and a list of layers is none.
        return CategoricalDistribution([json.dumps(value) for value in searched.values])
    assert searched.low is not None
    assert searched.high is not None
    if is_whole(training, name, searched):
        step = 1 if searched.step is None else int(searched.step)
        return IntDistribution(int(searched.low), int(searched.high), log=searched.log, step=step)
    return FloatDistribution(float(searched.low), float(searched.high), log=searched.log, step=searched.step)


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    else:
        assert isinstance(distribution, FloatDistribution)
        trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _stored(distribution: BaseDistribution, value: JsonValue) -> JsonValue:
    return json.dumps(value) if isinstance(distribution, CategoricalDistribution) else value


def _read(distribution: BaseDistribution, value: JsonValue) -> JsonValue:
    return json.loads(str(value)) if isinstance(distribution, CategoricalDistribution) else value


def _pruner(tuning: Tuning, epochs: int) -> optuna.pruners.BasePruner:
    """Median: Golovin et al. 2017, Google Vizier. Hyperband: Li et al. 2018, as Optuna does it, asynchronously."""
    match tuning.pruner:
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=_AT_RANDOM, n_warmup_steps=1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
        case "none":
            return optuna.pruners.NopPruner()


def _seed(seed: int, task: int) -> int:
    """Of 32 bits, as numpy's generator of that age takes them."""
    return zlib.crc32(f"{seed}/{task}".encode())


def best(trials: Iterable[Trial]) -> Trial | None:
    """The completed trial of the lowest loss, the first of equals; None where none was completed."""
    done = [(trial.loss, trial.task, trial) for trial in trials if trial.state == "completed" and trial.loss is not None]
    return min(done)[2] if done else None
