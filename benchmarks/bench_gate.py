"""What the gate's statistics cost, and how often they are wrong.

bootstrap_seconds      CPU seconds of one core for 1,000 paired resamples of 100,000 rows of a binary task (two models, the slowest metric)
bootstrap_seconds_of_20_classes_…   the same of a task with 20 classes, and of one where a row has two of the 20 on average
false_promotion_rate   share of 200 pairs of equally good models of which one is called better (1,000 rows, ROC AUC, confidence 0.95)

The pairs differ in nothing but chance: each model sees what decides the label through a noise of its own, of the same size.
"""

import time

import numpy as np
from numpy.typing import NDArray
from record import record
from threadpoolctl import threadpool_limits

from pipelines_lib.evaluation.compare import Comparison, compare
from pipelines_lib.evaluation.gates import standing
from pipelines_lib.evaluation.metrics import Truth

N_PAIRS = 200
N_ROWS, N_CLASSES = 100_000, 20
MARGIN = 0.01
OF_CLASSES = (("multiclass", "macro_f1"), ("multiclass", "log_loss"), ("multilabel", "macro_f1"), ("multilabel", "average_precision"))


def main() -> None:
    """Measure and record."""
    seconds = {metric: _seconds(metric) for metric in ("roc_auc", "average_precision", "log_loss", "f1")}
    wider = {f"{task}_{metric}": _seconds_of_classes(task, metric) for task, metric in OF_CLASSES}
    found = [standing(_pair(1000, seed, "roc_auc", 1000), MARGIN) for seed in range(N_PAIRS)]
    better, not_worse = (found.count(verdict) / N_PAIRS for verdict in ("better", "not worse"))  # type: ignore[arg-type]
    figures = {
        "bootstrap_seconds": max(seconds.values()),
        **{f"bootstrap_seconds_{metric}": value for metric, value in seconds.items()},
        **{f"bootstrap_seconds_of_{N_CLASSES}_classes_{name}": value for name, value in wider.items()},
        "false_promotion_rate": better,
        "equally_good_called_not_worse": not_worse,
        "n_pairs": N_PAIRS,
    }
    record("gate", figures, {"false_promotion_rate": better})


def _seconds(metric: str) -> float:
    started = time.process_time()
    with threadpool_limits(1):
        _pair(N_ROWS, 0, metric, 1000)
    return round(time.process_time() - started, 2)


def _seconds_of_classes(task: str, metric: str) -> float:
    random = np.random.default_rng(0)
    marks = random.random((N_ROWS, N_CLASSES)) < 2 / N_CLASSES
    marks[np.arange(N_ROWS), random.integers(0, N_CLASSES, N_ROWS)] |= task == "multiclass"
    first, second = ((0.55 * random.random(marks.shape) + 0.3 * marks).astype(np.float32) for _ in range(2))
    truth = Truth(marks.argmax(axis=1) if task == "multiclass" else marks, tuple(map(str, range(N_CLASSES))))
    started = time.process_time()
    with threadpool_limits(1):
        compare(metric, truth, first, second, confidence=0.95, resamples=1000, seed=0)
    return round(time.process_time() - started, 2)


def _pair(n_rows: int, seed: int, metric: str, resamples: int) -> Comparison:
    random = np.random.default_rng(seed)
    signal = random.normal(size=n_rows)
    labels = (signal + random.normal(size=n_rows) > 0).astype(np.int64)
    first, second = (_scores(signal + 0.7 * random.normal(size=n_rows)) for _ in range(2))
    truth = Truth(labels, ("no", "yes"), 1)
    return compare(metric, truth, first, second, confidence=0.95, resamples=resamples, seed=seed)


def _scores(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    chance = 1 / (1 + np.exp(-logits))
    return np.stack([1 - chance, chance], axis=1).astype(np.float32)


if __name__ == "__main__":
    main()
