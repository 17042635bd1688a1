"""One training, for `bench_training.py`: the same model, rows and precision through Sluice's loop, a loop written by hand, or Lightning.

    python benchmarks/training_work.py ours|by_hand|lightning '{"n_rows": …, …}'

Prints JSON: rows per second of the training steps (validation and start-up left out), their seconds, the last loss, the peak memory.
"""

import json
import logging
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipelines_lib.training.checkpoints import Checkpoints
from pipelines_lib.training.dataset import Rows, rows_of
from pipelines_lib.training.distributed import World, world
from pipelines_lib.training.loop import Loop
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import TabularModel
from pipelines_lib.training.objective import Objective
from pipelines_lib.training.observer import Observer, Pace
from pipelines_lib.training.progress import Progress
from pipelines_lib.use_case import Training

N_NUMERIC, CATEGORIES = 20, (50, 200, 1000)
MODEL = {"hidden": [256, 128, 64], "embedding": 16, "dropout": 0.1}


def main(how: str, given: dict[str, Any]) -> None:
    """Train and print."""
    n_rows, slow_rank, folder = given.pop("n_rows"), given.pop("slow_rank", None), given.pop("folder", None)
    settings = Training.model_validate({"model": MODEL, "patience": 10_000, "learning_rate": 1e-3, **given})
    if how == "ours":
        with world(settings.device) as ranks:
            found = ours(settings, ranks, n_rows, slow_rank, folder)
            if ranks.is_first:
                tell(found)
        return
    device = world_device(settings)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tell({"by_hand": by_hand, "lightning": lightning}[how](settings, device, n_rows))


def tell(found: dict[str, float]) -> None:
    """Print, with the peak of this process's memory (MiB)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    print(json.dumps({**found, "peak_mib": peak, "gpu_peak_mib": gpu}), flush=True)


def world_device(settings: Training) -> torch.device:
    """The device that the loop would take."""
    with world(settings.device) as alone:
        return alone.device


def rows(n: int, seed: int = 0) -> Rows:
    """Numbers, categories, and a label that follows from them."""
    random = np.random.default_rng(seed)
    numeric = random.normal(size=(n, N_NUMERIC)).astype(np.float32)
    categorical = np.stack([random.integers(0, size, n) for size in CATEGORIES], axis=1)
    signal = numeric[:, 0] * numeric[:, 1] + np.sin(2 * numeric[:, 2]) + (categorical[:, 0] % 7 - 3) / 3
    labels = (signal + random.logistic(size=n) / 2 > 0).astype(np.int64)
    return rows_of({"numeric": numeric, "categorical": categorical}, labels, pa.chunked_array([pa.array(np.arange(n)).cast(pa.string())]))


def model(settings: Training) -> nn.Module:
    """The model that all three train."""
    torch.manual_seed(settings.seed)
    names = tuple(f"x{place}" for place in range(N_NUMERIC)), tuple(f"c{place}" for place in range(len(CATEGORIES)))
    shape = Shape(numeric=names[0], categorical=names[1], categories=CATEGORIES, n_outputs=2)
    return TabularModel(shape, settings.model)


class Slowed(nn.Module):
    """A model that takes three times as long where it `is_slow`: what a worker of a third of the speed is like."""

    def __init__(self, inner: nn.Module, is_slow: bool) -> None:
        super().__init__()
        self.inner = inner
        self.is_slow = is_slow

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Wait for as many times the pass forth and back as it takes."""
        started = time.perf_counter()
        answer: torch.Tensor = self.inner(**inputs)
        if self.training and self.is_slow:
            # Back takes about twice as long as forth.
            time.sleep(6 * (time.perf_counter() - started))
        return answer


def ours(settings: Training, ranks: World, n_rows: int, slow_rank: int | None, folder: str | None) -> dict[str, float]:
    """Sluice's loop."""
    net = Slowed(model(settings), slow_rank == ranks.rank) if slow_rank is not None else model(settings)
    checkpoints = Checkpoints(folder, fingerprint="bench", keep=2, group=ranks.group()) if folder else NoCheckpoints()
    loop = Loop(
        net,
        objective=Objective(("no", "yes")),
        train=rows(n_rows),
        validation=rows(512, seed=1),
        settings=settings,
        world=ranks,
        checkpoints=checkpoints,  # type: ignore[arg-type]
        observers=[Moments()] if folder else [],
    )
    started = time.perf_counter()
    progress = loop.run()
    seconds = time.perf_counter() - started
    return {
        "rows_per_second": progress.epoch * n_rows / seconds,
        "seconds": seconds,
        "loss": progress.history[-1]["train_loss"],
        "share": progress.shares[0],
    }


class Moments(Observer):
    """Prints when it starts, and when its first steps after that are done: how long a killed training takes to go on."""

    def __init__(self) -> None:
        self._is_first = True

    def started(self, progress: Progress, step: int) -> None:  # noqa: ARG002 - the base class's signature
        """From where."""
        print(f"started {step} {time.time()}", flush=True)

    def progress(self, pace: Pace) -> None:
        """The first time."""
        if self._is_first:
            print(f"stepped {pace.step} {time.time()}", flush=True)
        self._is_first = False

    def saved(self, moment: float) -> None:  # noqa: ARG002 - the base class's signature
        """A checkpoint to go on from."""
        print(f"saved {time.time()}", flush=True)


class NoCheckpoints:
    """Writes none."""

    def begin(self, *_: object) -> None:
        """Nothing."""

    def wait(self) -> bool:
        """None."""
        return False

    def newest(self) -> None:
        """None."""


def by_hand(settings: Training, device: torch.device, n_rows: int) -> dict[str, float]:
    """What one would write for this model alone."""
    data = rows(n_rows)
    numeric, categorical, labels = data.inputs["numeric"], data.inputs["categorical"], data.labels
    validation = rows(512, seed=1)
    net = model(settings).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
    started = time.perf_counter()
    for epoch in range(settings.epochs):
        net.train()
        order = torch.from_numpy(np.random.default_rng([settings.seed, epoch]).permutation(n_rows))
        total = torch.zeros((), device=device)
        for start in range(0, n_rows, settings.batch_size):
            places = order[start : start + settings.batch_size]
            x, c, y = (tensor[places].to(device, non_blocking=True) for tensor in (numeric, categorical, labels))
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = cross_entropy(net(numeric=x, categorical=c), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(places)
        net.eval()
        with torch.no_grad():
            inputs = {name: tensor.to(device) for name, tensor in validation.inputs.items()}
            float(cross_entropy(net(**inputs), validation.labels.to(device)))
        mean = float(total) / n_rows
    seconds = time.perf_counter() - started
    return {"rows_per_second": settings.epochs * n_rows / seconds, "seconds": seconds, "loss": mean}


def lightning(settings: Training, device: torch.device, n_rows: int) -> dict[str, float]:
    """Lightning's Trainer, with a data loader that hands out whole batches, which is its fastest way."""
    import lightning as lit  # noqa: PLC0415 - no package of Sluice's

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lit.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model(settings)
            self.total, self.n = 0.0, 0

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            x, c, y = batch
            loss = cross_entropy(self.net(numeric=x, categorical=c), y)
            self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            x, c, y = batch
            self.log("validation_loss", cross_entropy(self.net(numeric=x, categorical=c), y), batch_size=len(y))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)

    class Batches(torch.utils.data.Dataset):
        def __init__(self, data: Rows) -> None:
            self.data = data

        def __len__(self) -> int:
            return len(self.data)

        def __getitems__(self, places: list[int]) -> Any:
            index = torch.as_tensor(places)
            return self.data.inputs["numeric"][index], self.data.inputs["categorical"][index], self.data.labels[index]

    def loader(data: Rows, shuffle: bool) -> Any:
        return torch.utils.data.DataLoader(Batches(data), batch_size=settings.batch_size, shuffle=shuffle, collate_fn=lambda batch: batch)

    trainer = lit.Trainer(
        max_epochs=settings.epochs,
        accelerator=device.type,
        devices=1,
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[settings.precision],  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = Module()
    train, validation = loader(rows(n_rows), shuffle=True), loader(rows(512, seed=1), shuffle=False)
    started = time.perf_counter()
    trainer.fit(module, train, validation)
    seconds = time.perf_counter() - started
    return {"rows_per_second": settings.epochs * n_rows / seconds, "seconds": seconds, "loss": float(trainer.callback_metrics["loss"])}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1], json.loads(sys.argv[2]))
