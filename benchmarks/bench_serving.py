"""The service against `mlflow models serve` and against the least that can serve a model: requests a second, and how long one waits.

The same model of 30 columns and the same bodies of one row, one worker process each, asked by `wrk` over loopback (a package of Debian's:
`apt-get install wrk`). All three servers run all the time and are asked in turn, so that they meet the same machine. Then 20 versions are
put in each other's place under load, and no request may fail.

    python benchmarks/bench_serving.py
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import serving_work as work
from record import record

HERE = Path(__file__).parent
CLIENTS = (1, 8, 64)
SECONDS, TURNS, SWAPS = 5, 3, 20
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.path = os.getenv("BENCH_PATH")
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.body = file:read("*all")
file:close()
"""
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
INVOCATIONS = "/invocations"


def main() -> None:
    """Measure and record."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; apt-get install wrk")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([sys.executable, str(HERE / "serving_work.py"), "package", name], folder)
        bodies(folder)
        servers = {how: Server(command, folder) for how, command in commands(folder).items()}
        try:
            for server in servers.values():
                server.wait(folder / "frame.json")
            figures, ratios = measured(servers, folder)
            figures |= swapped(servers["ours"], folder)
        finally:
            for server in servers.values():
                server.stop()
    record("serving", figures, ratios)


def measured(servers: dict[str, "Server"], folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Figures and ratios; of TURNS turns the best, for what else the machine does makes one slower, never faster."""
    asked = {
        "ours": ("ours", "frame.json", INVOCATIONS),
        "bare": ("bare", "frame.json", INVOCATIONS),
        "mlflow": ("mlflow", "frame.json", INVOCATIONS),
        "ours_tensors": ("ours", "tensors.json", f"/v2/models/{work.NAME}/infer"),
        "mlflow_tensors": ("mlflow", "inputs.json", INVOCATIONS),
    }
    figures: dict[str, Any] = {}
    for clients in CLIENTS:
        for _ in range(TURNS):
            for name, (server, body, path) in asked.items():
                for key, value in servers[server].ask(folder / body, path, clients).items():
                    better = max if key == "requests_per_second" else min
                    place = f"{name}_{key}_{clients}"
                    figures[place] = better(figures.get(place, value), value)
    figures |= {f"{name}_mib": round(server.mib()) for name, server in servers.items()}

    def ratio(of: str, key: str, to: str) -> float:
        return float(round(figures[f"{of}_{key}_64"] / figures[f"{to}_{key}_64"], 3))

    return figures, {
        "throughput_vs_mlflow": ratio("ours", "requests_per_second", "mlflow"),
        "p99_vs_mlflow": ratio("ours", "p99_ms", "mlflow"),
        "tensor_throughput_vs_mlflow": ratio("ours_tensors", "requests_per_second", "mlflow_tensors"),
        "throughput_vs_bare": ratio("ours", "requests_per_second", "bare"),
    }


def swapped(server: "Server", folder: Path) -> dict[str, Any]:
    """How many of the requests under way fail while versions take each other's place."""
    load = server.load(folder / "frame.json", INVOCATIONS, 8, 2 * SWAPS)
    for swap in range(SWAPS):
        version = 1 + (swap + 1) % work.VERSIONS
        work.point(folder, version)
        deadline = time.monotonic() + 30
        while server.get(f"/v2/models/{work.NAME}")["versions"] != [str(version)]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"version {version} was not taken over")
            time.sleep(0.05)
    found = told(load.communicate()[0])
    return {"swaps": SWAPS, "swaps_requests": found["requests"], "swaps_failed": found["failed"]}


def commands(folder: Path) -> dict[str, list[str]]:
    """How each server starts; the port comes last."""
    python = sys.executable
    asgi = [python, "-m", "uvicorn", "serving_work:bare", "--log-level", "warning", "--no-access-log", "--port"]
    mlflow = ["models", "serve", "--model-uri", str(folder / "mlflow"), "--env-manager", "local", "--workers", "1", "--port"]
    return {
        "ours": [python, "-m", "pipelines_lib.serving.server", "--root", str(folder / work.NAME), "--port"],
        "bare": asgi,
        "mlflow": [python, "-m", "mlflow", *mlflow],
    }


def bodies(folder: Path) -> None:
    """One row, as a DataFrame, as MLflow's tensors, and as those of the Open Inference Protocol."""
    row = work.rows(1, seed=5)
    frame = {"dataframe_split": {"columns": list(row), "data": [[values[0] for values in row.values()]]}}
    datatypes = {"number": "FP64", "string": "BYTES"}
    tensors = [{"name": name, "shape": [1], "datatype": datatypes[work.TYPES[name]], "data": values} for name, values in row.items()]
    for name, body in {"frame": frame, "inputs": {"inputs": row}, "tensors": {"inputs": tensors}}.items():
        (folder / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")
    (folder / "post.lua").write_text(LUA, encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    """Of the servers."""
    paths = f"{HERE.parent}:{HERE}"
    programs = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    home = {"SLUICE_PROJECT": str(HERE.parent), "SLUICE_HOME": str(folder / "home")}
    return {**os.environ, **home, "PYTHONPATH": paths, "PATH": programs, "BENCH_FOLDER": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}


def run(command: list[str], folder: Path) -> None:
    """Run to the end."""
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


class Server:
    """A server of the model, on a free port."""

    def __init__(self, command: list[str], folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self._folder = folder
        with (folder / "servers.log").open("ab") as log:
            self._process = subprocess.Popen([*command, self.url.rpartition(":")[2]], env=environment(folder), stdout=log, stderr=log)

    def wait(self, body: Path) -> None:
        """Until it answers."""
        deadline = time.monotonic() + 120
        request = urllib.request.Request(self.url + INVOCATIONS, body.read_bytes(), {"Content-Type": "application/json"})
        while True:
            try:
                urllib.request.urlopen(request, timeout=10).close()
            except (OSError, urllib.error.URLError):
                if time.monotonic() > deadline:
                    raise RuntimeError((self._folder / "servers.log").read_text(encoding="utf-8")[-3000:]) from None
                time.sleep(0.2)
            else:
                return

    def get(self, path: str) -> Any:
        """The JSON there."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def load(self, body: Path, path: str, clients: int, seconds: int) -> "subprocess.Popen[str]":
        """Start to ask."""
        command = [
            "wrk",
            "-t1",
            f"-c{clients}",
            f"-d{seconds}s",
            "--latency",
            "--timeout",
            "30s",
            "-s",
            str(self._folder / "post.lua"),
            self.url,
        ]
        given = {**os.environ, "BENCH_BODY": str(body), "BENCH_PATH": path}
        return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True)

    def ask(self, body: Path, path: str, clients: int) -> dict[str, float]:
        """Ask for SECONDS; `requests_per_second`, `p50_ms`, `p99_ms`. Raises `RuntimeError` where one failed."""
        found = told(self.load(body, path, clients, SECONDS).communicate()[0])
        if failed := found.pop("failed"):
            raise RuntimeError(f"{failed} requests to {self.url}{path} failed")
        found.pop("requests")
        print(f"{body.name} to {self.url}, {clients} clients: {found}", flush=True)
        return found

    def mib(self) -> float:
        """Resident memory of the server's processes."""
        process = psutil.Process(self._process.pid)
        return float(sum(each.memory_info().rss for each in [process, *process.children(recursive=True)]) / 2**20)

    def stop(self) -> None:
        """End it."""
        process = psutil.Process(self._process.pid)
        for each in [*process.children(recursive=True), process]:
            each.terminate()
        self._process.wait(30)


def told(output: str) -> dict[str, float]:
    """What `wrk` prints."""

    def milliseconds(percentile: str) -> float:
        found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", output)
        assert found is not None, output
        return round(float(found[1]) * MILLISECONDS[found[2]], 3)

    rate, total = re.search(r"Requests/sec:\s+([\d.]+)", output), re.search(r"(\d+) requests in", output)
    assert rate is not None
    assert total is not None
    errors = [
        int(number)
        for line in re.findall(r"(?:Non-2xx|Socket errors).*", output)
        for number in re.findall(r"\b\d+\b", line.partition(":")[2])
    ]
    return {
        "requests_per_second": float(rate[1]),
        "p50_ms": milliseconds("50"),
        "p99_ms": milliseconds("99"),
        "requests": float(total[1]),
        "failed": float(sum(errors)),
    }


if __name__ == "__main__":
    main()
