"""The services of a local installation: Airflow and MLflow, bound to loopback, with all state below one folder.

`up` starts what is not running, `down` ends everything that `up` and the deployments started.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from pydantic import JsonValue

from pipelines_lib.config import Profile, Project
from pipelines_lib.errors import BadInput, ConfigError, Unavailable
from pipelines_lib.launcher import warm_socket
from pipelines_lib.serving import local
from pipelines_lib.serving.pointer import pointer_path
from pipelines_lib.store import read_json, store_of, write_json

Say = Callable[[str], None]

_started: list["subprocess.Popen[bytes]"] = []
"""What this process started: kept, so that one that ended is reaped, and none is warned about as forgotten."""

_HOME_CONTENT = {"airflow", "landing", "logs", "mlflow", "services", "store", "warm.sock"}
_WARM = "warm"
"""Jobs start without the warm interpreter, only slower: nobody waits for it, and nothing fails when it ends."""
_NEEDED_BYTES = 1 << 30
_START_SECONDS = 180


@dataclass(frozen=True)
class Service:
    """A process that stays, known by its record `<home>/services/<name>.json`."""

    name: str
    command: list[str]
    environment: dict[str, str]
    url: str | None = None
    """Where it listens, if it does."""


def services(project: Project, profile: Profile) -> list[Service]:
    """What `up` starts, in order: no MLflow where the profile names a server, and no warm interpreter where stages are pods."""
    mlflow = [] if profile.tracking_uri.startswith(("http://", "https://")) else [_mlflow(project, profile)]
    warm = [_warm(project)] if profile.launcher == "local" else []
    return [*mlflow, *_airflow(project, profile), *warm]


def up(project: Project, say: Say) -> None:
    """Start what is not running and wait until it answers. Raises `BadInput` for a port or disk that is taken."""
    profile = project.profile()
    _check_disk(project.home)
    missing = [service for service in services(project, profile) if running(project, service.name) is None]
    for service in missing:
        _check_port(service)
    if any(service.name.startswith("airflow") for service in missing):
        _migrate(project, profile)
    for service in missing:
        _start(project, service)
    if missing:
        say(f"starting {', '.join(service.name for service in missing)}")
    _wait(project, profile, say)
    _serve_champions(project, profile, say)


def down(project: Project, say: Say) -> None:
    """End every service that has a record, its children included. A model service's record stays, for its port."""
    records = sorted((project.home / "services").glob("*.json"))
    found = {record.stem: process for record in records if (process := running(project, record.stem)) is not None}
    if found:
        say(f"stopping {', '.join(found)}")
        _end(list(found.values()))
    for record in records:
        if not record.stem.startswith(local.PREFIX) or record.stem.endswith(local.CANDIDATE):
            record.unlink(missing_ok=True)
    for child in _started:
        child.poll()


def clean(project: Project, say: Say) -> None:
    """Stop everything and forget the state folder. Raises `BadInput` for a folder that is not one of Sluice's."""
    down(project, say)
    if not project.home.exists():
        return
    strangers = sorted({path.name for path in project.home.iterdir()} - _HOME_CONTENT)
    if strangers:
        raise BadInput(
            f"{project.home} holds what Sluice did not put there ({', '.join(strangers[:5])}); is SLUICE_HOME right? Nothing was deleted"
        )
    shutil.rmtree(project.home)
    say(f"forgot {project.home}")


def check_alive(project: Project) -> None:
    """Raise `Unavailable`, with the end of its log, for a service that was started and lives no more."""
    for service in services(project, project.profile()):
        if service.name != _WARM and running(project, service.name) is None:
            raise Unavailable(f"{service.name} has ended; `sluice up` starts it again. {_log_tail(project, service.name)}")


def running(project: Project, name: str) -> psutil.Process | None:
    """The service's process, if it lives. A recycled process id is told apart by its start time."""
    path = project.home / "services" / f"{name}.json"
    if not path.exists():
        return None
    record = read_json(path)
    assert isinstance(record, dict)
    try:
        process = psutil.Process(int(str(record["pid"])))
        alive = abs(process.create_time() - float(str(record["create_time"]))) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def airflow_environment(project: Project, profile: Profile) -> dict[str, str]:
    """Settings of the local Airflow: SQLite, LocalExecutor, loopback only."""
    home = project.home / "airflow"
    url = urlsplit(profile.airflow_url or "http://127.0.0.1:8080")
    return {
        "SLUICE_PROJECT": str(project.folder),
        "SLUICE_HOME": str(project.home),
        "SLUICE_USE_CASES": str(project.use_cases),
        "SLUICE_PROFILE": profile.name,
        "SLUICE_AIRFLOW_URL": profile.airflow_url or "",
        "PYTHONPATH": str(project.folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(project.folder / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(project.folder / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # SQLite takes one writer: with Airflow's default of 32 it locks up.
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        # Everyone who reaches loopback is admin; the port is open to this machine alone.
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__HOST": url.hostname or "127.0.0.1",
        "AIRFLOW__API__PORT": str(url.port or 8080),
        "AIRFLOW__API__BASE_URL": profile.airflow_url or "",
        "AIRFLOW__API__EXPOSE_CONFIG": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{profile.airflow_url}/execution/",
        # A new use case shows up within half a minute rather than five.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def _airflow(project: Project, profile: Profile) -> list[Service]:
    """Airflow's four parts, as `airflow standalone` would run them, but for the log servers that listen on every interface."""
    environment = airflow_environment(project, profile)
    url = profile.airflow_url or "http://127.0.0.1:8080"
    airflow = str(Path(sys.executable).parent / "airflow")
    return [
        Service("airflow-api", [airflow, "api-server"], environment, url),
        Service("airflow-scheduler", [airflow, "scheduler", "--skip-serve-logs"], environment),
        Service("airflow-dag-processor", [airflow, "dag-processor"], environment),
        Service("airflow-triggerer", [airflow, "triggerer", "--skip-serve-logs"], environment),
    ]


def _migrate(project: Project, profile: Profile) -> None:
    """Bring Airflow's database to the installed version; nothing to do where it is."""
    (project.home / "airflow").mkdir(parents=True, exist_ok=True)
    (project.home / "logs").mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "airflow"), "db", "migrate"],
        env=_inherited() | airflow_environment(project, profile),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise BadInput(
            f"Airflow's database at {project.home / 'airflow'} could not be prepared; `make clean` forgets it. Airflow said:\n{tail}"
        )


def _warm(project: Project) -> Service:
    # One thread for linear algebra: a pool of them does not survive a fork.
    environment = {
        "PYTHONPATH": str(project.folder),
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
        "GX_ANALYTICS_ENABLED": "false",
    }
    return Service(_WARM, [sys.executable, "-m", "pipelines_lib.warm", str(warm_socket(project))], environment)


def _mlflow(project: Project, profile: Profile) -> Service:
    url = profile.mlflow_url or "http://127.0.0.1:5000"
    address = urlsplit(url)
    (project.home / "mlflow").mkdir(parents=True, exist_ok=True)
    return Service(
        name="mlflow",
        url=url,
        command=[
            *(sys.executable, "-m", "mlflow", "server", "--host", address.hostname or "127.0.0.1", "--port", str(address.port)),
            *(
                "--backend-store-uri",
                profile.tracking_uri,
                "--artifacts-destination",
                str(project.home / "mlflow" / "artifacts"),
                "-w",
                "1",
            ),
        ],
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )


def _start(project: Project, service: Service) -> None:
    logs = project.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{service.name}.log").open("ab") as log:
        process = subprocess.Popen(
            service.command,
            cwd=project.folder,
            env=_inherited() | service.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    with contextlib.suppress(psutil.NoSuchProcess):
        record: dict[str, JsonValue] = {"pid": process.pid, "create_time": psutil.Process(process.pid).create_time(), "url": service.url}
        write_json(project.home / "services" / f"{service.name}.json", record)


def _inherited() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_AIRFLOW"))}


def _wait(project: Project, profile: Profile, say: Say) -> None:
    """Until every service answers. Raises `Unavailable` with the end of the log of the one that did not."""
    deadline = time.monotonic() + _START_SECONDS
    waiting = {service.name: service for service in services(project, profile) if service.name != _WARM}
    while waiting:
        for name in list(waiting):
            if running(project, name) is None:
                raise Unavailable(f"{name} ended while it started. {_log_tail(project, name)}")
            if _is_healthy(waiting[name], profile):
                del waiting[name]
        if waiting and time.monotonic() > deadline:
            name = next(iter(waiting))
            raise Unavailable(f"{name} did not answer within {_START_SECONDS} s. {_log_tail(project, name)}")
        time.sleep(0.5 if waiting else 0)
    say(f"Airflow is up at {profile.airflow_url}, MLflow at {profile.mlflow_url}")


def _serve_champions(project: Project, profile: Profile, say: Say) -> None:
    """What was deployed before the services were stopped, or the machine restarted, serves again."""
    for use_case in project.use_cases_or_errors()[0]:
        root = store_of(profile) / use_case.name
        if profile.launcher == "local" and pointer_path(root).exists():
            try:
                say(f"{use_case.name} answers at {local.ensure(use_case, project, root).url}")
            except ConfigError as error:  # its token is not here, and everything else may run without it
                say(f"{use_case.name} is not served: {error}")


def _is_healthy(service: Service, profile: Profile) -> bool:
    try:
        answer = httpx.get(
            f"{service.url}/health" if service.name == "mlflow" else f"{profile.airflow_url}/api/v2/monitor/health", timeout=5
        )
    except httpx.TransportError:
        return False
    if answer.status_code != httpx.codes.OK:
        return False
    part = {
        "airflow-api": "metadatabase",
        "airflow-scheduler": "scheduler",
        "airflow-dag-processor": "dag_processor",
        "airflow-triggerer": "triggerer",
    }
    return service.name == "mlflow" or answer.json()[part[service.name]]["status"] == "healthy"


def _check_port(service: Service) -> None:
    if service.url is None:
        return
    address = urlsplit(service.url)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.hostname or "127.0.0.1", address.port or 80))
        except OSError as error:
            variable = f"SLUICE_{service.name.split('-')[0].upper()}_URL"
            raise BadInput(
                f"{service.name} cannot listen at {service.url}: the port is taken ({error.strerror}). "
                f"Stop what uses it, or choose another with {variable}=http://127.0.0.1:<port>"
            ) from error


def _check_disk(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    if free < _NEEDED_BYTES:
        raise BadInput(
            f"only {free / 2**20:.0f} MiB are free at {home}, and 1 GiB is needed; free some space or set SLUICE_HOME to a folder elsewhere"
        )


def _end(processes: list[psutil.Process]) -> None:
    """SIGTERM to all at once, children included; SIGKILL to those who have not ended after 15 seconds."""
    family = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=15)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=5)


def _log_tail(project: Project, name: str) -> str:
    path = project.home / "logs" / f"{name}.log"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    return f"The end of {path}:\n" + "\n".join(lines)
