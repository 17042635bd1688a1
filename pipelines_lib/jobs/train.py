"""Train on the run's snapshot, alone or as one rank: `python -m pipelines_lib.training.agent --standalone --nproc-per-node=2 -m pipelines_lib.jobs.train --spec …`."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from pipelines_lib.contracts import DatasetRef, JobResult
from pipelines_lib.data.snapshot import opened
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, Held
from pipelines_lib.failures import of_another_rank
from pipelines_lib.features.fitted import changes
from pipelines_lib.jobs.snapshot import snapshot_of
from pipelines_lib.jobs.stage import Stage, is_first_rank, run_stage
from pipelines_lib.jobs.tuned import chosen, own_model
from pipelines_lib.registry.journal import artifacts_of
from pipelines_lib.store import write_bytes, write_json, write_text
from pipelines_lib.training import arrays
from pipelines_lib.training.checkpoints import Checkpoints
from pipelines_lib.training.dataset import Prepared, prepare
from pipelines_lib.training.distributed import Absent, World, joined, meet
from pipelines_lib.training.loop import Loop
from pipelines_lib.training.models import build
from pipelines_lib.training.observer import Observer, TaskLog
from pipelines_lib.training.progress import Progress, Stopped
from pipelines_lib.training.reporter import Reporter
from pipelines_lib.training.spending import Spending, meter_devices
from pipelines_lib.training.strategies import Tensors
from pipelines_lib.training.watchdog import COLLECTIVES_WAIT_LONGER, UNWATCHED, Unwatched, Watchdog, end_without
from pipelines_lib.use_case.training import OF_THE_MACHINES

log = logging.getLogger("sluice")


@dataclass(frozen=True)
class Fit:
    """A trained model."""

    data: Prepared
    progress: Progress
    weights: Tensors
    """Of the best epoch, whole, in host memory."""


def main(stage: Stage) -> JobResult:
    """Fit the transform, train, export. Every rank runs this; the first one writes."""
    stage = chosen(stage)
    with _reporter(stage) as reporter, together(stage) as (ranks, watchdog):
        observers = [] if reporter is None else [_described(reporter, stage, ranks)]
        trained = fit(stage, ranks, observers, watchdog=watchdog)
        if ranks.is_first:
            _write(stage, trained, watchdog)
    return _result(stage, trained, ranks)


def fit(
    stage: Stage,
    ranks: World,
    observers: Sequence[Observer] = (),
    *,
    watchdog: Unwatched = UNWATCHED,
) -> Fit:
    """Train the model of `stage.use_case` on the run's snapshot, from the newest checkpoint of the stage.

    Raises what an observer ended the training with, beside what `Loop.run` does. Where that is `Held`, every rank raises it, since any may be
    the first to end; where it is anything else, the others raise `Stopped`.
    """
    settings, ref = stage.use_case.training, snapshot_of(stage)
    with arrays.discarded_after(_arrays(stage)):
        with watchdog.busy("loading the data"):
            data = prepare(opened(stage.use_case, Tables(stage.root), ref), stage.use_case, _arrays(stage))
        model = _model(stage, data)  # watched: a model of the user's own may hang
        with watchdog.busy("setting the training up"):
            _announce(data, model, ranks)
            meter_devices(stage.meter, ranks)
            loop = Loop(
                model,
                objective=data.objective,
                train=data.train,
                validation=data.validation,
                settings=settings,
                world=ranks,
                checkpoints=Checkpoints(
                    *kept_at(stage), fingerprint=_fingerprint(stage, ref), keep=settings.keep_checkpoints, group=ranks.group()
                ),
                observers=[TaskLog(settings), Spending(stage.meter, stage.budget), *observers],
                watchdog=watchdog,
            )
        try:
            progress = loop.run()
        except Stopped as stopped:
            arrays.discard(_arrays(stage))
            raise _known_to_all(stopped, ranks) from None
    return Fit(data, progress, loop.weights())


def kept_at(stage: Stage) -> tuple[str, str | None]:
    """Where the stage's checkpoints are, a folder or s3://bucket/prefix, and the connection that opens it."""
    kept = stage.profile.checkpoints
    if kept is None:
        return str(stage.folder / "checkpoints"), stage.profile.store_connection
    return kept.of(stage.below(stage.folder)), kept.connection


def _arrays(stage: Stage) -> Path:
    """Where this machine's processes keep the arrays they train on: each machine its own, even in a folder that all see."""
    folder = stage.work if stage.profile.scratch is None else stage.scratch(stage.profile.scratch)
    return folder / f"arrays-{os.environ.get('GROUP_RANK', '0')}"


def _known_to_all(stopped: Stopped, ranks: World) -> Exception:
    why = stopped.why or stopped
    held = json.loads(ranks.told(0, json.dumps([why.reason, why.figures] if isinstance(why, Held) else None)))
    if ranks.is_first:
        return why
    return of_another_rank(why) if held is None else Held(*held)


def _reporter(stage: Stage) -> Reporter | nullcontext[None]:
    """Who tells MLflow; on the first rank alone. It starts first: importing MLflow takes as long as reading the data."""
    if stage.use_case.training.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(
            f"{stage.use_case.name}: training.tensorboard is true, and the package tensorboard is not installed; "
            "run `pip install tensorboard`, or set it to false"
        )
    if not is_first_rank():
        return nullcontext()
    return Reporter(
        stage.work,
        stage.project.folder,
        kept=stage.folder,
        tracking_uri=stage.profile.tracking_uri,
        system_metrics_seconds=stage.profile.system_metrics_seconds,
        tensorboard=stage.use_case.training.tensorboard,
    )


def _described(reporter: Reporter, stage: Stage, ranks: World) -> Reporter:
    ref = snapshot_of(stage)
    reporter.describe(
        stage.use_case.training.model_dump(mode="json"),
        task=stage.use_case.task,
        dataset=ref,
        run_id=stage.spec.run_id,
        tags={"sluice.partition": stage.spec.partition_key, "sluice.snapshot": ref.content_hash, "sluice.table_version": str(ref.version)},
        artifacts=artifacts_of(stage.root, stage.profile.tracking_uri),
        ranks=ranks,
    )
    return reporter


@contextmanager
def together(stage: Stage) -> Iterator[tuple[World, Watchdog]]:
    """Meet the other ranks of the stage's training, and part from them when all are done, with somebody who finds out that one of them hangs."""
    settings = stage.use_case.training
    try:
        met = meet(settings.device, settings.timeout)
    except Absent as absent:
        end_without(stage.folder, absent)
    sees_waiting = met.device.type == "cpu"
    with (
        Watchdog(settings.timeout, stage.folder, met.store, met.rank, met.size, sees_waiting=sees_waiting) as watchdog,
        joined(met, settings.timeout + COLLECTIVES_WAIT_LONGER) as ranks,
    ):
        yield ranks, watchdog
        ranks.wait_for_all()  # else nobody would be left to find out that one of them hangs


def _model(stage: Stage, data: Prepared) -> torch.nn.Module:
    torch.manual_seed(stage.use_case.training.seed)
    return build(stage.use_case, data.transform, data.objective.n_outputs, sample=data.sample, hooks=stage.hooks)


def _announce(data: Prepared, model: torch.nn.Module, ranks: World) -> None:
    if ranks.is_first:
        log.info(
            "%s rows to train on, %s to stop by; %s parameters; %d process(es) on %s, %d thread(s) each",
            *(f"{len(data.train):,}", f"{len(data.validation):,}", f"{sum(p.numel() for p in model.parameters()):,}"),
            *(ranks.size, ranks.device.type, torch.get_num_threads()),
        )


def _write(stage: Stage, trained: Fit, watchdog: Unwatched) -> None:
    """Watched, as the loop is: on a GPU, or on a store that does not answer, each of these may hang."""
    from pipelines_lib.training.export import to_onnx  # noqa: PLC0415 - the exporter costs a second to import, and one rank needs it

    data, progress = trained.data, trained.progress
    watchdog.beat()
    model = _model(stage, data)  # the one that was trained may be in pieces, or compiled
    model.load_state_dict(trained.weights)
    watchdog.beat()
    graph = to_onnx(data.objective.scoring(model), data.sample)
    watchdog.beat()
    write_bytes(stage.folder / "model.onnx", graph)
    watchdog.beat()
    write_text(stage.folder / "transform.json", data.transform.to_json())
    write_json(
        stage.folder / "training.json",
        {
            "settings": stage.use_case.training.model_dump(mode="json"),
            "classes": list(data.objective.classes),
            "history": [dict(epoch) for epoch in progress.history],
            "best_epoch": progress.best_epoch,
        },
    )


def _result(stage: Stage, trained: Fit, ranks: World) -> JobResult:
    data, progress = trained.data, trained.progress
    folder = stage.below(stage.folder)
    return JobResult(
        stage="train",
        reason=f"{progress.epoch} epochs on {len(data.train):,} rows; the best was epoch {progress.best_epoch}",
        figures={
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "validation_loss": progress.best_loss,
            "train_rows": len(data.train),
            "workers": ranks.size,
            "cleaned": [*changes(data.transform.fitted)],
        },
        outputs={"folder": folder} | ({"tensorboard": f"{folder}/tensorboard"} if stage.use_case.training.tensorboard else {}),
    )


def _fingerprint(stage: Stage, ref: DatasetRef) -> str:
    """What a checkpoint must agree with to be resumed: the rows and all that shapes the weights."""
    # Between two tries the machines may change: the same batches are shared out differently.
    decides = stage.use_case.training.model_dump(mode="json", exclude={"window", *OF_THE_MACHINES})
    types = stage.use_case.feature_types
    text = json.dumps([ref.content_hash, decides, types, stage.use_case.task, own_model(stage)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    run_stage(main)
