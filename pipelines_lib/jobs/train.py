"""Train on the run's snapshot, alone or as one rank of torchrun: `torchrun --standalone --nproc-per-node=2 -m pipelines_lib.jobs.train --spec …`."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from pipelines_lib.contracts import DatasetRef, JobResult
from pipelines_lib.data.snapshot import load
from pipelines_lib.data.tables import Tables
from pipelines_lib.features.fitted import changes
from pipelines_lib.jobs.snapshot import snapshot_of
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.store import write_bytes, write_json, write_text
from pipelines_lib.training.checkpoint import Checkpoints
from pipelines_lib.training.dataset import Prepared, prepare
from pipelines_lib.training.distributed import World, world
from pipelines_lib.training.loop import Loop, Progress
from pipelines_lib.training.models import build
from pipelines_lib.use_case import Training

log = logging.getLogger("sluice")


@record  # type: ignore[untyped-decorator]  # torchrun then names the first rank that failed, with its traceback
def main(stage: Stage) -> JobResult:
    """Fit the transform, train, export. Every rank runs this; the first one writes."""
    settings = stage.use_case.training
    ref = snapshot_of(stage)
    data = prepare(load(stage.use_case, Tables(stage.root), ref), stage.use_case)
    torch.manual_seed(settings.seed)
    model = build(stage.use_case, data.transform, data.objective.n_outputs, sample=data.sample, hooks=stage.hooks)
    with world() as ranks:
        _announce(data, model, ranks)
        checkpoints = Checkpoints(stage.folder / "checkpoints", _fingerprint(stage, ref, settings))
        loop = Loop(
            model,
            objective=data.objective,
            train=data.train,
            validation=data.validation,
            settings=settings,
            world=ranks,
            checkpoints=checkpoints,
        )
        progress = loop.run()
    if ranks.is_first:
        _write(stage, settings, data, model, progress)
    return _result(stage, data, progress, ranks)


def _announce(data: Prepared, model: torch.nn.Module, ranks: World) -> None:
    if ranks.is_first:
        log.info(
            "%s rows to train on, %s to stop by; %s parameters; %d process(es) on %s, %d thread(s) each",
            *(f"{len(data.train):,}", f"{len(data.validation):,}", f"{sum(p.numel() for p in model.parameters()):,}"),
            *(ranks.size, ranks.device.type, torch.get_num_threads()),
        )


def _write(stage: Stage, settings: Training, data: Prepared, model: torch.nn.Module, progress: Progress) -> None:
    from pipelines_lib.training.export import to_onnx  # noqa: PLC0415 - the exporter costs a second to import, and one rank needs it

    write_bytes(stage.folder / "model.onnx", to_onnx(data.objective.scoring(model), data.sample))
    write_text(stage.folder / "transform.json", data.transform.to_json())
    write_json(
        stage.folder / "training.json",
        {
            "settings": settings.model_dump(mode="json"),
            "classes": list(data.objective.classes),
            "history": [dict(epoch) for epoch in progress.history],
            "best_epoch": progress.best_epoch,
        },
    )


def _result(stage: Stage, data: Prepared, progress: Progress, ranks: World) -> JobResult:
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
        outputs={"folder": str(stage.folder.relative_to(stage.spec.store))},
    )


def _fingerprint(stage: Stage, ref: DatasetRef, settings: Training) -> str:
    """What a checkpoint must agree with to be resumed: the rows and all that shapes the weights."""
    # The number of workers shares the same batches out differently, so it may change between two tries.
    decides = settings.model_dump(mode="json", exclude={"window", "workers", "checkpoint_steps"})
    types = {name: stage.use_case.columns[name].type for name in stage.use_case.features()}
    own = Path(str(stage.hooks().__file__)).read_text(encoding="utf-8") if settings.model.type == "hooks" else ""
    text = json.dumps([ref.content_hash, decides, types, stage.use_case.task, own], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    run_stage(main)
