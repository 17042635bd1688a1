"""The training loop against a loop written by hand and against Lightning, one process against two, and what checkpoints and slow workers cost.

Each comparison takes turns, in fresh processes, so that both meet the same machine; a ratio is that of the best times. Where there
is a GPU the same script measures there: bf16, a larger model, and its share of the GPU's peak. Lightning is compared where it is
installed (`pip install lightning`).

    python benchmarks/bench_training.py
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from record import record

ROOT = Path(__file__).parents[1]
WORK = str(ROOT / "benchmarks" / "training_work.py")
TURNS = 5
GPU = torch.cuda.is_available()
PLAIN = (
    {"n_rows": 2_000_000, "epochs": 3, "batch_size": 16_384, "precision": "bf16"}
    if GPU
    else {"n_rows": 200_000, "epochs": 2, "batch_size": 1024}
)
SHARED = {"n_rows": 200_000, "epochs": 2, "batch_size": 4096, "device": "cpu", "strategy": "ddp"}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 operations a second, by their data sheets."""


def main() -> None:
    """Measure and record."""
    ours, by_hand, *usual = turns(*([how, PLAIN, 1] for how in ("ours", "by_hand", *(["lightning"] if find_spec("lightning") else []))))
    ratios = {"speed_vs_plain_loop": best(ours) / best(by_hand)}
    figures = {
        "rows_per_second": best(ours),
        "plain_loop_rows_per_second": best(by_hand),
        "peak_mib": max(run["peak_mib"] for run in ours),
        "plain_loop_peak_mib": max(run["peak_mib"] for run in by_hand),
    }
    if usual:
        ratios["speed_vs_lightning"] = best(ours) / best(usual[0])
        figures |= {"lightning_rows_per_second": best(usual[0]), "lightning_peak_mib": max(run["peak_mib"] for run in usual[0])}
    one, two = turns(["ours", SHARED, 1], ["ours", {**SHARED, "shares": "equal"}, 2])
    ratios["speed_2_vs_1_process"] = best(two) / best(one)
    slowed = {**SHARED, "n_rows": 100_000, "slow_rank": 1}
    equal, measured = turns(["ours", {**slowed, "shares": "equal"}, 2], ["ours", slowed, 2])
    ratios["step_time_vs_equal_shares"] = best(equal) / best(measured)
    figures["share_of_the_fast_worker"] = measured[0]["share"]
    with tempfile.TemporaryDirectory() as folder:
        saving = [{**PLAIN, "folder": f"{folder}/{turn}"} for turn in range(TURNS)]
        without, with_them = turns(["ours", PLAIN, 1], ["ours", saving, 1])
        ratios["time_with_vs_without_checkpoints"] = best(without) / best(with_them)
        figures["seconds_from_kill_to_step"] = kill(f"{folder}/killed")
    if GPU:
        figures |= gpu_figures()
    record(
        "training", {name: round(value, 3) for name, value in figures.items()}, {name: round(value, 3) for name, value in ratios.items()}
    )


def best(runs: list[dict[str, float]]) -> float:
    """Rows a second of the fastest run: what else the machine does makes one slower, never faster."""
    return max(run["rows_per_second"] for run in runs)


def turns(*works: list[Any]) -> list[list[dict[str, float]]]:
    """Each of `works` (how, settings or a list of them, processes) TURNS times, taking turns."""
    found: list[list[dict[str, float]]] = [[] for _ in works]
    for turn in range(TURNS):
        for place, (how, settings, n) in enumerate(works):
            found[place].append(run(how, settings[turn] if isinstance(settings, list) else settings, n))
    for (how, _, n), runs in zip(works, found, strict=True):
        rates = ", ".join(f"{each['rows_per_second']:,.0f}" for each in runs)
        print(f"{how}, {n} process(es): {rates} rows/s", flush=True)
    return found


def command(how: str, settings: dict[str, Any], n: int) -> list[str]:
    """The command of a training; several processes by torchrun, which starts them again where one dies."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--max-restarts=1", f"--nproc-per-node={n}"] if n > 1 else []
    return [sys.executable, *launcher, WORK, how, json.dumps({**settings, "workers": n})]


def environment(n: int) -> dict[str, str]:
    """A core a process where one process is compared with several."""
    threads = {"OMP_NUM_THREADS": "1"} if n > 1 else {}
    return {**os.environ, **threads, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def run(how: str, settings: dict[str, Any], n: int) -> dict[str, float]:
    """What the first rank prints last."""
    given = environment(n)
    if settings.get("device") == "cpu":
        given["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command(how, settings, n), capture_output=True, text=True, check=False, env=given)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def kill(folder: str) -> float:
    """Seconds from the SIGKILL of one of two ranks to the end of the first steps that are done again."""
    settings = {**SHARED, "folder": folder, "epochs": 50, "checkpoint_steps": 20}
    process = subprocess.Popen(command("ours", settings, 2), stdout=subprocess.PIPE, text=True, env=environment(2), start_new_session=True)
    killed = 0.0
    try:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.split()
            if words[:1] == ["saved"] and not killed:
                ranks = [child for child in psutil.Process(process.pid).children() if "training_work.py" in " ".join(child.cmdline())]
                killed = time.time()
                ranks[-1].send_signal(signal.SIGKILL)
            elif words[:1] == ["stepped"] and killed:
                return float(words[2]) - killed
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            child.kill()
        process.wait()
    raise RuntimeError("the training did not go on")


def gpu_figures() -> dict[str, float]:
    """bf16 rows a second of a model that fills a GPU, and which share of the peak its matrix products are."""
    hidden = [4096] * 6
    work = {**PLAIN, "n_rows": 4_000_000, "epochs": 1, "batch_size": 65_536, "model": {"hidden": hidden, "embedding": 16, "dropout": 0.0}}
    found = run("ours", {**work, "compile": True}, 1)
    # Forth, and twice as much back: 6 operations a weight and row.
    products = 6 * sum(a * b for a, b in pairwise(hidden))
    peak = next((value for name, value in PEAK.items() if name in torch.cuda.get_device_name()), None)
    figures = {"bf16_rows_per_second": found["rows_per_second"], "gpu_peak_mib": found["gpu_peak_mib"]}
    return figures | ({} if peak is None else {"share_of_peak": found["rows_per_second"] * products / peak})


if __name__ == "__main__":
    main()
