"""The ranks of one machine, as torchrun has them, started again in place where that may help.

    python -m pipelines_lib.training.agent --standalone --nproc-per-node=2 -m pipelines_lib.jobs.train --spec spec.json

It takes torchrun's own arguments and is torchrun's own agent, but for four things. Bad input and a held gate end the
group at once, where torchrun would start it again. After every failure it names the rank that failed first, with its
traceback. Its exit code is the contract's, where torchrun ends with 1 whatever its workers end with. And of several
machines one that comes early waits for the first, and one that comes when all is done has nothing to do.
"""

import itertools
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.agent.server import WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.api import RunResult
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.run import config_from_args, parse_args

from pipelines_lib import failures
from pipelines_lib.config import Project
from pipelines_lib.contracts import ExitCode, JobResult, JobSpec
from pipelines_lib.store import StorePath, opened, read_json

log = logging.getLogger("sluice")

_FINAL = frozenset({ExitCode.BAD_INPUT, ExitCode.HELD})
"""Codes of a rank after which starting again can't help."""
_SECONDS_FOR_RECORDS = 1.0
"""How long ranks of other machines may take to leave what they say of the same failure."""
_SECONDS_BETWEEN_LOOKS = 2.0
_LOOKS_BETWEEN_LINES = 30


class Agent(LocalElasticAgent):
    """torchrun's agent, which also reads and keeps what the ranks leave in `stage_dir` when they fail."""

    def __init__(self, spec: WorkerSpec, config: LaunchConfig, stage_dir: StorePath) -> None:
        super().__init__(spec, config.logs_specs, start_method=config.start_method, shutdown_timeout=config.shutdown_timeout)
        self._stage_dir = stage_dir

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        # Each agent takes away what its own ranks left, and the first one what a larger group did.
        own = [worker.global_rank for worker in worker_group.workers]
        gone = [left.rank for left in failures.left(self._stage_dir) if left.rank >= worker_group.workers[0].world_size]
        failures.forget(self._stage_dir, own + gone)
        return dict(super()._start_workers(worker_group))

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if result.is_failed():
            self._take_note(result)
        return result

    def _take_note(self, result: RunResult) -> None:
        known = {failure.rank for failure in failures.left(self._stage_dir)}
        codes = {rank: failed.exitcode for rank, failed in result.failures.items()}
        silent = {rank: code for rank, code in codes.items() if rank not in known}
        # The agent itself ends with SIGTERM the ranks that are left.
        by_themselves = {rank: code for rank, code in silent.items() if code != -signal.SIGTERM}
        for rank, code in (by_themselves or ({} if known else silent)).items():
            failures.leave(self._stage_dir, failures.of_end(rank, code))
        found = failures.left(self._stage_dir)
        if _FINAL.intersection(codes.values()) or failures.exit_code(found) in _FINAL:
            self._remaining_restarts = 0
        restarts = self._worker_group.spec.max_restarts
        if found:
            log.error(failures.text(found))
        if self._remaining_restarts:
            number = restarts - self._remaining_restarts + 1
            log.warning("all ranks start again, from the newest checkpoint (start %d of %d)", number + 1, restarts + 1)


def run(arguments: Sequence[str]) -> int:
    """Start the ranks and wait for them; returns the stage's exit code."""
    # Else ranks that start again meet the keys of the killed ones in the agent's store, and wait for the dead.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    config, entrypoint, rest = config_from_args(_parsed(arguments))
    stage_dir = _stage_dir(rest)
    if not _met_first(config, stage_dir):
        return _without_us(stage_dir)
    spec = _worker_spec(config, entrypoint, rest)
    agent = Agent(spec, config, stage_dir)
    try:
        result = agent.run()
    except SignalException as asked:
        # The rendezvous stays open: a node that comes back may join the others again.
        code = failures.exit_code(failures.left(stage_dir), default=128 + asked.sigval)
        log.warning(
            "asked to end by %s; the ranks %s",
            asked.sigval.name,
            "have ended by themselves" if code == ExitCode.INTERRUPTED else "are gone",
        )
        return code
    except (RendezvousError, DistError) as error:
        # Either the machines did not come together, or the first one, where they meet, has gone.
        log.error("this machine and the others of the training are apart (%s: %s)", type(error).__name__, error)
        return _without_us(stage_dir)
    finally:
        if not isinstance(sys.exc_info()[1], SignalException):
            spec.rdzv_handler.shutdown()
    if result is None:
        return _without_us(stage_dir)
    return _after(stage_dir, {failed.exitcode for failed in result.failures.values()}) if result.is_failed() else ExitCode.DONE


def _after(stage_dir: StorePath, codes: set[int]) -> int:
    """The exit code of a group that has failed, whose ranks on this machine ended with `codes`."""
    if not _FINAL & codes:
        time.sleep(_SECONDS_FOR_RECORDS)
    return next((code for code in sorted(_FINAL) if code in codes), failures.exit_code(failures.left(stage_dir)))


def _without_us(stage_dir: StorePath) -> int:
    """The exit code of a machine that has no part in the group: that of the group where it has ended, else it is to try again."""
    ended = _ended(stage_dir)
    if ended is None:
        return _after(stage_dir, {failures.TRY_AGAIN})
    log.info("the training has ended without this machine")
    return ended


def _ended(stage_dir: StorePath) -> ExitCode | None:
    try:
        result = JobResult.model_validate(read_json(stage_dir / "result.json"))
    except FileNotFoundError:
        return None
    return ExitCode.HELD if result.status == "held" else ExitCode.DONE


def _met_first(config: LaunchConfig, stage_dir: StorePath) -> bool:
    """Wait until the machine where all meet can be reached, which may be later to start; false where the time is over, or the training."""
    if config.rdzv_backend != "c10d" or config.max_nodes == 1 or config.rdzv_configs.get("is_host") == "1":
        return True
    host, _, port = config.rdzv_endpoint.rpartition(":")
    deadline = time.monotonic() + float(config.rdzv_configs.get("join_timeout", 600))
    for look in itertools.count():
        try:
            socket.create_connection((host, int(port)), timeout=_SECONDS_BETWEEN_LOOKS).close()
        except OSError as error:
            if time.monotonic() > deadline:
                log.error("the first machine of this training, %s, was not there in time (%s)", config.rdzv_endpoint, error)
                return False
            if _ended(stage_dir) is not None:
                return False
            if look % _LOOKS_BETWEEN_LINES == 0:
                log.info("waiting for the first machine of this training, %s (%s)", config.rdzv_endpoint, error)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        else:
            return True
    raise AssertionError("unreachable")


def _parsed(arguments: Sequence[str]) -> Any:
    parsed = parse_args(list(arguments))
    if parsed.standalone:
        parsed.rdzv_backend, parsed.rdzv_endpoint, parsed.rdzv_id = "c10d", "localhost:0", str(uuid.uuid4())
    elif parsed.rdzv_backend == "c10d" and not parsed.rdzv_endpoint:
        _meet_at_the_master(parsed)
    return parsed


def _meet_at_the_master(parsed: Any) -> None:
    """Meet where Kubeflow Trainer says, by PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT, which torchrun reads as its arguments."""
    first = parsed.node_rank == 0
    # The first knows itself before the cluster's DNS knows it.
    host = parsed.local_addr if first and parsed.local_addr else parsed.master_addr
    parsed.rdzv_endpoint = f"{host}:{parsed.master_port}"
    parsed.rdzv_conf = ",".join(part for part in (parsed.rdzv_conf, f"is_host={int(first)}") if part)


def _worker_spec(config: LaunchConfig, entrypoint: str, arguments: Sequence[str]) -> WorkerSpec:
    parameters = RendezvousParameters(
        backend=config.rdzv_backend,
        endpoint=config.rdzv_endpoint,
        run_id=config.run_id,
        min_nodes=config.min_nodes,
        max_nodes=config.max_nodes,
        local_addr=config.local_addr,
        **config.rdzv_configs,
    )
    return WorkerSpec(
        role=config.role,
        local_world_size=config.nproc_per_node,
        entrypoint=entrypoint,
        args=tuple(arguments),
        rdzv_handler=get_rendezvous_handler(parameters),
        max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval,
        local_addr=config.local_addr,
        numa_options=config.numa_options,
    )


def _stage_dir(arguments: Sequence[str]) -> StorePath:
    project = Project.from_environment()
    spec = JobSpec.model_validate(read_json(opened(arguments[arguments.index("--spec") + 1], project)))
    return opened(spec.stage_dir, project, spec.profile)


def main() -> None:
    """The process's whole life."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
