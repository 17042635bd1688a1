"""What every stage shares: read the spec, do the work, write the result, end with the contract's exit code."""

import argparse
import errno
import importlib.util
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from pydantic import ValidationError

from pipelines_lib import cost, failures
from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import ExitCode, JobResult, JobSpec, Params
from pipelines_lib.cost.budget import Budget
from pipelines_lib.cost.meter import Meter
from pipelines_lib.errors import BadInput, ConfigError, DataError, Held, Interrupted, SluiceError, Unavailable
from pipelines_lib.store import StorePath, at, below, opened, read_json, way_in, write_json
from pipelines_lib.use_case import UseCase

log = logging.getLogger("sluice")

_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})


@dataclass(frozen=True)
class Stage:
    """What a stage's work is given."""

    spec: JobSpec
    use_case: UseCase
    profile: Profile
    project: Project
    meter: Meter = field(default_factory=Meter)
    """What this process uses."""
    budget: Budget = field(default_factory=Budget)
    """What the run may cost."""

    @cached_property
    def store(self) -> StorePath:
        """The object store."""
        return at(self.spec.store, way_in(self.profile))

    @property
    def folder(self) -> StorePath:
        """This stage's own folder in the store: its result and what else it leaves."""
        return self.folder_of(self.spec.stage, self.spec.shard)

    def folder_of(self, stage: str, shard: int | None = None) -> StorePath:
        """The folder of a stage of this run, or of one of its shards."""
        return at(self.spec.shard_dir(stage, shard), way_in(self.profile))

    @property
    def run_folder(self) -> StorePath:
        """What the folders of this run's stages lie in."""
        return at(self.spec.run_dir, way_in(self.profile))

    @property
    def root(self) -> StorePath:
        """The use case's folder in the store."""
        return self.store / self.spec.use_case

    def below(self, path: StorePath) -> str:
        """Where `path` lies below the store, as results and links have it."""
        return below(self.store, path)

    @cached_property
    def work(self) -> Path:
        """A folder of this machine for what the stage needs while it works: its own in the store where that is a folder.

        Else it is in the temporary folder, closed to others, and the launcher removes it at the end of each try. Raises `ConfigError`
        where somebody else has made it.
        """
        if isinstance(self.folder, Path):
            return self.folder
        folder = self.scratch(tempfile.gettempdir())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise ConfigError(
                f"{folder} is another user's, and rows would lie there; have it removed, or set TMPDIR to a folder of your own"
            )
        folder.chmod(0o700)
        return folder

    def scratch(self, above: str) -> Path:
        """A folder in `above` that only this stage of this run has."""
        return Path(above) / self.spec.work_name

    def result_of(self, stage: str) -> JobResult:
        """The result of an earlier stage of this run. Raises `DataError` where it has none."""
        path = self.run_folder / stage / "result.json"
        try:
            return JobResult.model_validate(read_json(path))
        except FileNotFoundError:
            raise DataError(
                f"stage {self.spec.stage} needs the result of {stage}, and there is no {path}; run {stage} for this run first"
            ) from None

    def hooks(self) -> ModuleType:
        """The use case's `hooks.py`. Raises `DataError` where there is none."""
        path = self.project.use_cases / self.use_case.name / "hooks.py"
        if not path.exists():
            raise DataError(f"use case {self.use_case.name} needs {path}, and there is none")
        spec = importlib.util.spec_from_file_location(f"sluice_hooks_{self.use_case.name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


Work = Callable[[Stage], JobResult]


def held_result(stage: str, held: Held) -> JobResult:
    """The result of a stage that a gate held."""
    return JobResult(stage=stage, status="held", reason=held.reason, figures=held.figures, links=held.links)


def run_stage(work: Work) -> NoReturn:
    """Run `work` as the process's whole life."""
    sys.exit(_run(work))


def is_first_rank() -> bool:
    """Whether this process speaks for the stage: rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _run(work: Work) -> int:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--spec", required=True, help="path of the stage's spec.json, or its s3:// address")
    address: str = parser.parse_args().spec
    _set_up_logging()
    try:
        project = Project.from_environment()
        spec = JobSpec.model_validate(read_json(opened(address, project)))
        folder = opened(spec.stage_dir, project, spec.profile)
        failures.forget(folder, [failures.this_rank()])
        if is_first_rank():
            (folder / "result.json").unlink(missing_ok=True)
    except Unavailable as error:
        log.error("%s", error)
        return failures.TRY_AGAIN
    except (OSError, ValidationError, BadInput) as error:
        log.error("%s is not the spec of a stage: %s", address, error)
        return ExitCode.BAD_INPUT
    with Meter(folder) as meter:
        return _metered(work, spec, folder, meter, started)


def _metered(work: Work, spec: JobSpec, folder: StorePath, meter: Meter, started: float) -> int:
    """Do the work, write its result into `folder`, and tell the meter how it ended. Returns the exit code."""
    try:
        project = Project.from_environment()
        use_case, profile = _with_params(project.use_case(spec.use_case), Params.checked(spec.params)), project.profile(spec.profile)
        budget = Budget.of(use_case, profile, spec.pipeline, at(spec.run_dir, way_in(profile)), meter)
        budget.check()
        result = _worked(work, Stage(spec, use_case, profile, project, meter, budget))
        code = ExitCode.DONE
    except Held as held:
        log.warning("HELD: %s", held.reason)
        result = held_result(spec.stage, held)
        code = ExitCode.HELD
        _leave(folder, held, code)
    except BadInput as error:
        log.error("%s: %s", type(error).__name__, error)
        return _leave(folder, error, ExitCode.BAD_INPUT)
    except Interrupted as interrupted:
        log.warning("INTERRUPTED: %s", interrupted)
        return _leave(folder, interrupted, ExitCode.INTERRUPTED)
    except Unavailable as error:
        log.error("%s: %s", type(error).__name__, error)
        return _leave(folder, error, failures.TRY_AGAIN)
    except Exception as error:
        _leave(folder, error, failures.TRY_AGAIN)
        raise
    meter.ends(result.status)
    seconds = round(time.monotonic() - started, 3)
    # Whichever rank ends first with what a gate said has the others ended: each writes it, and it is the same.
    if is_first_rank() or code == ExitCode.HELD:
        meter.beat()
        used = cost.of_stage(folder, profile.prices).document()
        write_json(folder / "result.json", result.model_copy(update={"seconds": seconds, "usage": used, "launch": spec.launch}))
        log.info(
            "%s %s in %.1f s%s", spec.stage, result.status, seconds, f": {result.reason}" if code == ExitCode.DONE and result.reason else ""
        )
    return code


def _leave(folder: StorePath, error: Exception, code: int) -> int:
    """Keep what ended this process, for whoever has to say what ended the stage; returns `code`."""
    try:
        failures.leave(folder, failures.of_exception(error, code))
    except OSError as full:
        log.warning("what ended this process could not be kept in %s (%s)", folder, full.strerror)
    except SluiceError as refused:
        log.warning("what ended this process could not be kept: %s", refused)
    return code


def _worked(work: Work, stage: Stage) -> JobResult:
    """What `work` returns. What nobody foresaw ends the process with its traceback, whose message is left out where it may quote a row about a person."""
    try:
        return work(stage)
    except SluiceError:
        raise
    except Exception as error:
        if (refused := _refused_by_the_system(error)) is not None:
            where = f", {error.filename}" if isinstance(error, OSError) and error.filename else ""
            raise Unavailable(
                f"{stage.spec.stage} of {stage.spec.partition_key}: the system refused ({os.strerror(refused)}{where}). See to the room and the "
                f"rights of the store {stage.spec.store} and of {tempfile.gettempdir()}, then run the stage again; what it had begun is in no table"
            ) from (None if stage.use_case.private() else error)
        if not stage.use_case.private():
            raise
        told = f"{type(error).__name__} (its message is not shown: it may quote values of columns with `privacy`)"
        raise (failures.Lost if failures.is_loss(error) else RuntimeError)(told).with_traceback(error.__traceback__) from None


def _refused_by_the_system(error: Exception) -> int | None:
    """The system's number where a disk is full, a quota or a limit reached, or a folder closed to us; delta-rs tells it in its text alone."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) and error.errno is not None else int(told[1]) if told else None
    return number if number in _REFUSALS else None


def _with_params(use_case: UseCase, params: Params) -> UseCase:
    """The use case with what the form of a manual run overrides."""
    changed = params.model_dump(include={"window", "epochs"}, exclude_none=True)
    return use_case.model_copy(update={"training": use_case.training.model_copy(update=changed)})


def _set_up_logging() -> None:
    rank = os.environ.get("RANK")
    prefix = f"[rank {rank}] " if rank is not None and os.environ.get("WORLD_SIZE") != "1" else ""
    logging.basicConfig(level=logging.WARNING, format=f"{prefix}%(levelname)s %(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
