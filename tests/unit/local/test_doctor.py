import json
import os
import socket
import sqlite3
from importlib.metadata import version
from types import SimpleNamespace

import psutil
import pytest

from pipelines_lib.config import Profile, Project
from pipelines_lib.local import doctor
from pipelines_lib.local.doctor import Finding, examine


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    for key in ("SLUICE_AIRFLOW_URL", "SLUICE_MLFLOW_URL"):
        monkeypatch.delenv(key, raising=False)
    (tmp_path / "include" / "profiles").mkdir(parents=True)
    (tmp_path / "include" / "profiles" / "local.yaml").write_text(
        'name: local\nstore: "{home}/store"\ntracking_uri: "sqlite:///{home}/mlflow/mlflow.db"\n'
    )
    (tmp_path / "requirements.txt").write_text(f"pydantic=={version('pydantic')}\n")
    return Project(folder=tmp_path, home=tmp_path / "home", use_cases=tmp_path / "use_cases", profile_name="local")


def bad(findings) -> list[str]:
    return [f"{finding.what} -> {finding.remedy}" for finding in findings if not finding.good]


def service(project: Project, name: str, process: psutil.Process | None) -> None:
    record = {"pid": process.pid, "create_time": process.create_time()} if process else {"pid": 2**22 - 1, "create_time": 1.0}
    path = project.home / "services" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def test_a_machine_that_is_fine(project, monkeypatch):
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: SimpleNamespace(total=4 << 30))
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 30))

    assert bad(examine(project)) == []


def test_looking_changes_nothing(project):
    before = sorted(project.folder.rglob("*"))
    examine(project)

    assert sorted(project.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("found", "good"), [(("3", "10", "9"), False), (("3", "11", "0"), True), (("3", "14", "1"), True), (("2", "7", "18"), False)]
)
def test_python(found, good):
    finding = doctor.python(found)

    assert finding.good is good
    assert "3.11" in finding.remedy


def test_a_package_that_is_not_as_pinned_is_named(tmp_path, monkeypatch):
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        "# a comment\nnumpy==2.4.6 ; python_full_version < '3.12'\n    # via x\nnumpy==2.5.5 ; python_full_version >= '3.12'\n"
        "pandas==3.1.1\ntorch==2.13.0\nmlflow==3.17.2\n"
    )
    there = {"numpy": "2.5.5", "pandas": "3.0.6", "torch": "2.13.0+cpu", "mlflow": None}
    monkeypatch.setattr(doctor, "version", lambda name: there[name] if there.get(name) else absent())

    assert bad(doctor.packages(lock)) == [
        "mlflow is not installed, and requirements.txt pins 3.17.2 -> run `make setup`, which installs what is pinned",
        "pandas 3.0.6, and requirements.txt pins 3.1.1 -> run `make setup`, which installs what is pinned",
    ]


def absent() -> str:
    raise doctor.PackageNotFoundError


def test_no_lock(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "set SLUICE_PROJECT" in bad(doctor.packages(tmp_path / "requirements.txt"))[0]
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert bad(doctor.packages(tmp_path / "requirements.txt")) == []


def test_little_of_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))

    assert "1.0 GiB are free" in bad([doctor.disk(tmp_path / "not" / "there")])[0]
    assert "training.workers: 1" in bad([doctor.memory(2 << 30)])[0]
    assert bad([doctor.memory(int(3.8 * (1 << 30)))]) == []
    assert "one core" in bad([doctor.cores(1)])[0]
    assert doctor.git(None).good


def test_ports_that_are_free_taken_or_ours(project):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        profile = Profile(name="local", store="", tracking_uri="", airflow_url=url)

        [problem] = bad(doctor.ports(project, profile))
        assert url in problem
        assert "SLUICE_AIRFLOW_URL=" in problem

        service(project, "airflow-api", psutil.Process(os.getpid()))
        assert list(doctor.ports(project, profile)) == [Finding(True, f"airflow-api runs at {url}")]
    assert bad(doctor.ports(project, profile.model_copy(update={"airflow_url": None, "mlflow_url": url}))) == []


def test_a_service_that_has_ended_is_told(project):
    service(project, "airflow-scheduler", None)
    service(project, "airflow-triggerer", psutil.Process(os.getpid()))

    assert [(f.good, f.what) for f in doctor.services(project)] == [
        (False, "airflow-scheduler was started and runs no more"),
        (True, "airflow-triggerer runs"),
    ]


def test_a_broken_record_is_told_and_hides_nothing(project):
    service(project, "a", psutil.Process(os.getpid()))
    (project.home / "services" / "b.json").write_text("{")
    service(project, "c", None)

    assert [finding.good for finding in doctor.services(project)] == [True, False, False]
    assert len(bad(examine(project))) >= 2


def test_a_store_in_a_bucket_is_tried(project, bucket, troubled, troubled_bucket):
    def findings():
        return [f"{finding.what} -> {finding.remedy}" for finding in doctor.store(profile)]

    assert not list(doctor.store(project.profile()))
    profile = Profile(name="local", store=str(bucket), store_connection="troubled", tracking_uri="")
    assert findings() == [f"the store {bucket} can be written to, and refuses one of two writers that meet -> "]
    assert not list(bucket.objects())
    troubled.fail("deaf", methods="PUT", times=3)
    assert "conditional writes" in findings()[0]
    troubled.heal()
    troubled.fail("answer", methods="PUT", status=403, code="AccessDenied")
    [said] = findings()
    assert said.startswith(f"the store {bucket} can't be used -> {bucket}")
    assert "refused access (AccessDenied)" in said


def test_databases(project):
    profile = project.profile()
    assert list(doctor.databases(project, profile)) == []
    for folder, content in (("airflow", None), ("mlflow", b"no database at all, only text" * 100)):
        path = project.home / folder / f"{folder}.db"
        path.parent.mkdir(parents=True)
        if content is None:
            sqlite3.connect(path).close()
        else:
            path.write_bytes(content)

    [airflow, mlflow] = doctor.databases(project, profile)
    assert airflow.good
    assert not mlflow.good
    assert "file is not a database" in mlflow.what


def test_use_cases(project):
    assert bad(doctor.use_cases(project)) == []
    (project.use_cases / "shop").mkdir(parents=True)
    (project.use_cases / "shop" / "use_case.yaml").write_text("name: shop\n")

    [problem] = bad(doctor.use_cases(project))
    assert "use case shop is not right" in problem
    assert "use_case.yaml:1: title: required" in problem


def test_a_broken_profile_is_a_finding_and_hides_nothing(project):
    (project.folder / "include" / "profiles" / "local.yaml").write_text("nonsense: 1\n")
    findings = examine(project)

    assert any("profile 'local' is not right" in problem for problem in bad(findings))
    assert any("use cases" in finding.what for finding in findings)
