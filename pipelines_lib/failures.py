"""What a process leaves when it fails, and which of several failed first.

Each failing rank writes `failures/rank-<n>.json` into the stage's folder, which all machines of a training share. A rank
that only lost the others says so and counts after those that failed by themselves, so clocks that differ a little
between machines do not make a victim the cause. Both worlds read this; it imports the contract and the store alone.
"""

import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Iterable
from typing import Literal, TypeVar

from pydantic import ValidationError

from pipelines_lib.contracts import Contract, ExitCode
from pipelines_lib.errors import BadInput, DataError, Held, Interrupted, SluiceError
from pipelines_lib.store import StorePath, read_json, write_json

Kind = Literal["error", "bad_input", "held", "hang", "killed", "interrupted", "lost"]

TRY_AGAIN = 1
"""Whatever is no code of the contract says so."""

_FOLLOWS: frozenset[Kind] = frozenset({"interrupted", "lost"})
"""What befalls a rank because of something else."""
_OF_ANOTHER = "another rank tells more"
_LONGEST_MESSAGE, _LONGEST_TRACEBACK = 4_000, 20_000
# How gloo and NCCL say that another rank is gone: they raise plain RuntimeErrors, or torch's own below DistError.
_LOST = re.compile(r"\bgloo\b|\bNCCL\b", re.IGNORECASE)


class Lost(RuntimeError):
    """Another rank is gone, as this one saw it."""


class Failure(Contract):
    """How one rank failed; `failures/rank-<n>.json`. Nothing in it is taken from a row about a person."""

    rank: int
    host: str
    moment: float
    """Seconds since 1970, by the clock of the machine that wrote it."""
    kind: Kind
    """`lost`: it failed because another rank did; `interrupted`: it was asked to end."""
    type: str
    """The exception's class, or the signal's name."""
    message: str
    traceback: str = ""
    exit_code: int = TRY_AGAIN

    @property
    def sentence(self) -> str:
        """Who, where, and what, in one line."""
        said = self.message.strip().splitlines() or [""]
        return f"rank {self.rank} on {self.host}: {self.type}: {said[0]}{' …' if len(said) > 1 else ''}"


def leave(stage_dir: StorePath, failure: Failure) -> None:
    """Write `failure` into the stage's folder."""
    write_json(_path(stage_dir, failure.rank), failure)


def forget(stage_dir: StorePath, ranks: Iterable[int] | None = None) -> None:
    """Remove what `ranks` (all, where None) left at an earlier try."""
    paths = _folder(stage_dir).glob("rank-*.json") if ranks is None else (_path(stage_dir, rank) for rank in ranks)
    for path in paths:
        path.unlink(missing_ok=True)


def left(stage_dir: StorePath) -> list[Failure]:
    """What the ranks left, the first failure first."""
    found = []
    for path in _folder(stage_dir).glob("rank-*.json"):
        try:
            found.append(Failure.model_validate(read_json(path)))
        except (FileNotFoundError, DataError, ValidationError):
            continue  # taken away by a restart meanwhile, or of another version
    return sorted(found, key=lambda failure: (failure.kind in _FOLLOWS, failure.moment, failure.rank))


def exit_code(failures: Iterable[Failure], default: int = TRY_AGAIN) -> int:
    """What the stage as a whole ends with: bad input of any rank, else a held gate, else a signal, else `default`."""
    codes = {failure.exit_code for failure in failures}
    return next((code for code in (ExitCode.BAD_INPUT, ExitCode.HELD, ExitCode.INTERRUPTED) if code in codes), default)


def text(failures: list[Failure]) -> str:
    """The first of `failures` with its traceback, and one line for each of the others."""
    first, *others = failures
    lines = [f"first failure: {first.sentence}"]
    if "\n" in first.message.strip():
        lines += _indented(first.message)
    if first.traceback:
        lines += _indented(first.traceback)
    return "\n".join([*lines, *(f"then {failure.sentence}" for failure in others)])


E = TypeVar("E", bound=Exception)


def of_another_rank(error: E) -> E:
    """`error` marked as one that another rank tells more of: it counts after that rank's own."""
    error.add_note(_OF_ANOTHER)
    return error


def of_exception(error: BaseException, code: int) -> Failure:
    """This process's failure. Messages of `error` and of what caused it must be fit to be shown."""
    return _of_this_rank(_kind(error), type(error).__name__, str(error), _traceback(error), code)


def of_hang(rank: int, host: str, message: str, stack: str = "") -> Failure:
    """Of a rank that makes no progress; another rank may say it."""
    return Failure(rank=rank, host=host, moment=time.time(), kind="hang", type="Hang", message=message, traceback=stack)


def of_loss(message: str) -> Failure:
    """Of this rank, which can't go on without another."""
    return _of_this_rank("lost", "Lost", message, "", TRY_AGAIN)


def of_end(rank: int, code: int) -> Failure:
    """Of a rank of this machine that left nothing itself and ended with `code` (negative: the signal that ended it)."""
    name = f"exit code {code}" if code >= 0 else signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    why = {
        -signal.SIGKILL: "killed, by the kernel for want of memory (its log, or the pod's OOMKilled, says so) or by somebody",
        -signal.SIGTERM: "ended by somebody before it could write a checkpoint",
    }.get(code, "crashed in native code" if code < 0 else "it ended before the stage began; the log above says why")
    return Failure(rank=rank, host=host_name(), moment=time.time(), kind="killed", type=name, message=why)


def host_name() -> str:
    """What this machine calls itself."""
    return socket.gethostname()


def this_rank() -> int:
    """Which rank this process is; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def _of_this_rank(kind: Kind, name: str, message: str, stack: str, code: int) -> Failure:
    return Failure(
        rank=this_rank(),
        host=host_name(),
        moment=time.time(),
        kind=kind,
        type=name,
        message=message[:_LONGEST_MESSAGE],
        traceback=stack[-_LONGEST_TRACEBACK:],
        exit_code=code,
    )


def _kind(error: BaseException) -> Kind:
    if _OF_ANOTHER in getattr(error, "__notes__", ()):
        return "lost"
    if isinstance(error, BadInput):
        return "bad_input"
    if isinstance(error, Held):
        return "held"
    if isinstance(error, Interrupted):
        return "interrupted"
    return "lost" if is_loss(error) else "error"


def is_loss(error: BaseException) -> bool:
    """Whether another rank's end is what `error`, or what caused it, is about."""
    # By name: whoever asks need not have torch.
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, Lost) or "DistError" in names or (type(error) is RuntimeError and _LOST.search(str(error))):
        return True
    return error.__cause__ is not None and is_loss(error.__cause__)


def _traceback(error: BaseException) -> str:
    # What caused an error of ours is told in its message as far as it may be; the cause's own text might quote a row.
    if isinstance(error, SluiceError):
        return "".join(traceback.format_tb(error.__traceback__))
    return "".join(traceback.format_exception(error))


def _indented(several: str) -> list[str]:
    return [f"    {line}" for line in several.rstrip().splitlines()]


def _folder(stage_dir: StorePath) -> StorePath:
    return stage_dir / "failures"


def _path(stage_dir: StorePath, rank: int) -> StorePath:
    return _folder(stage_dir) / f"rank-{rank}.json"
