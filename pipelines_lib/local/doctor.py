"""`sluice doctor`: what would keep Sluice from running here, each with its remedy. Looks only; in a bucket it writes an object to see
what becomes of it, and removes it."""

import os
import platform
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from pipelines_lib.config import Profile, Project
from pipelines_lib.errors import SluiceError
from pipelines_lib.local.services import running
from pipelines_lib.serving.local import PREFIX
from pipelines_lib.store import store_of

KEY_PACKAGES = (
    "apache-airflow",
    "apache-airflow-providers-cncf-kubernetes",
    "apache-airflow-providers-standard",
    "deltalake",
    "great-expectations",
    "mlflow",
    "numpy",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "pydantic",
    "torch",
)
"""Those whose version decides whether anything works at all."""

_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    good: bool
    what: str
    """What was found."""
    remedy: str = ""
    """What to do about it, where it is not good."""


def examine(project: Project) -> list[Finding]:
    """Everything, in the order in which it is needed. Never raises over what it finds."""
    findings = [
        python(platform.python_version_tuple()),
        *packages(project.folder / "requirements.txt"),
        disk(project.home),
        memory(psutil.virtual_memory().total),
        cores(os.cpu_count() or 1),
        git(shutil.which("git")),
    ]
    try:
        profile = project.profile()
    except SluiceError as error:
        findings.append(Finding(False, f"the profile {project.profile_name!r} is not right", str(error)))
    else:
        findings += [*store(profile), *(_of_this_machine(project, profile) if profile.launcher == "local" else _of_the_cluster(profile))]
    return [*findings, *use_cases(project)]


def _of_this_machine(project: Project, profile: Profile) -> list[Finding]:
    return [*ports(project, profile), *services(project), *databases(project, profile)]


def _of_the_cluster(profile: Profile) -> list[Finding]:
    from pipelines_lib.local.cluster import examine_cluster  # noqa: PLC0415 - its client is slow to import

    assert profile.kubernetes is not None, "a launcher of pods has it"
    return examine_cluster(profile.kubernetes, trainjobs=profile.launcher == "trainjob")


def python(found: tuple[str, str, str]) -> Finding:
    """Python 3.11 or newer."""
    good = (int(found[0]), int(found[1])) >= (3, 11)
    return Finding(
        good, f"Python {'.'.join(found)}", "install Python 3.11 or newer, remove .venv, and run `make demo PYTHON=python3.11` again"
    )


def packages(lock: Path) -> list[Finding]:
    """The key packages as `requirements.txt` pins them: one finding for each that differs, or one for all."""
    if not lock.exists():
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            return [Finding(True, "the packages are those of this pod's image")]
        return [Finding(False, f"there is no {lock}", "run Sluice from its checkout, or set SLUICE_PROJECT to it")]
    pins = _pins(lock)
    wrong = []
    for name in KEY_PACKAGES:
        found, pinned = _installed(name), pins.get(name, set())
        if pinned and found not in pinned:
            wrong.append(
                Finding(
                    False,
                    f"{name} {found or 'is not installed'}, and requirements.txt pins {' or '.join(sorted(pinned))}",
                    "run `make setup`, which installs what is pinned",
                )
            )
    return wrong or [Finding(True, f"{len(KEY_PACKAGES)} key packages are as requirements.txt pins them")]


def disk(home: Path) -> Finding:
    """2 GiB free where the state lies."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    return Finding(
        free >= 2 * _GIB,
        f"{free / _GIB:.1f} GiB are free at {home}",
        "free some space (2 GiB is enough), or set SLUICE_HOME to a folder elsewhere",
    )


def memory(total: int) -> Finding:
    """4 GiB, less what a system keeps for itself."""
    return Finding(
        total >= 3.5 * _GIB,
        f"{total / _GIB:.1f} GiB of memory",
        "Airflow, MLflow and a training together need 4 GiB; give the machine more, or set `training.workers: 1`",
    )


def cores(n_cores: int) -> Finding:
    """Two: one for Airflow, one for the work."""
    return Finding(n_cores >= 2, f"{n_cores} core(s)", "Airflow and a training share one core and will be slow; give the machine two")


def git(path: str | None) -> Finding:
    """Nothing needs it at run time."""
    return Finding(True, "git is there" if path else "git is not there; only work on Sluice itself needs it")


def store(profile: Profile) -> Iterator[Finding]:
    """A store in a bucket: it can be reached, written to, and refuses one of two writers that meet."""
    try:
        place = store_of(profile)
        if isinstance(place, Path):
            return
        place.require_conditional_writes()
    except (SluiceError, FileNotFoundError) as error:
        yield Finding(False, f"the store {profile.store} can't be used", str(error))
    else:
        yield Finding(True, f"the store {profile.store} can be written to, and refuses one of two writers that meet")


def ports(project: Project, profile: Profile) -> Iterator[Finding]:
    """The addresses of Airflow and MLflow: free, or in use by our own services."""
    for service, url, variable in (
        ("airflow-api", profile.airflow_url, "SLUICE_AIRFLOW_URL"),
        ("mlflow", profile.mlflow_url, "SLUICE_MLFLOW_URL"),
    ):
        if url is None:
            continue
        if running(project, service) is not None:
            yield Finding(True, f"{service} runs at {url}")
            continue
        taken = _taken(url)
        yield Finding(
            taken is None,
            f"{url} is free for {service}" if taken is None else f"{url}, where {service} would listen, can't be used: {taken}",
            f"stop what uses it, or choose another with {variable}=http://127.0.0.1:<port>",
        )


def services(project: Project) -> Iterator[Finding]:
    """Services that were started and have ended since."""
    airflow_is_up = (project.home / "services" / "airflow-api.json").exists()
    for record in sorted((project.home / "services").glob("*.json")):
        try:
            alive = running(project, record.stem) is not None
        except (SluiceError, KeyError, ValueError, AssertionError) as error:
            yield Finding(False, f"{record} is no record of a service ({error})", "remove the file")
            continue
        if record.stem in ("airflow-api", "mlflow") and alive:
            continue
        if record.stem.startswith(PREFIX) and not airflow_is_up:
            continue  # stopped together with the rest; its record stays for its port
        log = project.home / "logs" / f"{record.stem}.log"
        yield Finding(
            alive,
            f"{record.stem} {'runs' if alive else 'was started and runs no more'}",
            f"look at the end of {log}, then `sluice up`" if log.exists() else "`sluice up` starts it again",
        )


def databases(project: Project, profile: Profile) -> Iterator[Finding]:
    """The SQLite files that are there already: readable, and whole."""
    paths = [project.home / "airflow" / "airflow.db"]
    if profile.tracking_uri.startswith("sqlite:///"):
        paths.append(Path(profile.tracking_uri.removeprefix("sqlite:///").partition("?")[0]))
    for path in paths:
        if not path.exists():
            continue
        problem = _sqlite_problem(path)
        yield Finding(
            problem is None,
            f"{path} is readable" if problem is None else f"{path}: {problem}",
            "`make down`, then put a backup there, or `make clean` to begin anew (data, models and runs are forgotten)",
        )


def use_cases(project: Project) -> list[Finding]:
    """The settings of each; `sluice check` looks closer."""
    good, broken = project.use_cases_or_errors()
    findings = [Finding(False, f"use case {name} is not right", str(error).replace("\n", "\n    ")) for name, error in broken.items()]
    if good or not broken:
        names = ", ".join(use_case.name for use_case in good)
        findings.insert(
            0,
            Finding(True, f"use cases: {names}" if good else f"there are no use cases in {project.use_cases} yet; `sluice new` makes one"),
        )
    return findings


def _pins(lock: Path) -> dict[str, set[str]]:
    """Package to its pinned versions: one, or one a Python version."""
    pins: dict[str, set[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        name, equals, rest = line.partition("==")
        if equals and not line.startswith((" ", "#", "-")):
            pins.setdefault(name.partition("[")[0].strip(), set()).add(rest.split()[0].rstrip("\\;"))
    return pins


def _installed(name: str) -> str | None:
    """Its version, without the mark of a local build (2.13.0+cpu is 2.13.0)."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def _taken(url: str) -> str | None:
    """Why nothing can listen at `url`, or None."""
    address = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.hostname or "127.0.0.1", address.port or 80))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _sqlite_problem(path: Path) -> str | None:
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            connection.execute("select count(*) from sqlite_master").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return f"can't be read ({error})"
    return None
