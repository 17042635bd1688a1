"""docker/kind.sh, with commands in place of Docker, kind, kubectl and Helm that write down how they were called."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in *from-env-file*) sed 's/^/stdin /' >> "$CALLS";; *"--stdin"*|*"--filename -"*) cat >/dev/null;; esac
"""
TOOLS = ("docker", "kind", "kubectl", "helm")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of docker/, and a folder `bin` with the commands."""
    shutil.copytree(ROOT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns(".env"))
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).write_text(FAKE, encoding="utf-8")
        (tmp_path / "bin" / tool).chmod(0o755)
    for real in ("bash", "basename", "cat", "dirname", "env", "grep", "sed", "sh"):
        (tmp_path / "bin" / real).symlink_to(str(shutil.which(real)))
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    return tmp_path


def run(checkout: Path, *words: str) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
    calls = checkout / "calls"
    calls.touch()
    environment = {"PATH": str(checkout / "bin"), "CALLS": str(calls), "HOME": os.environ["HOME"]}
    done = subprocess.run([checkout / "docker" / "kind.sh", *words], env=environment, capture_output=True, text=True, check=False)
    return done, calls.read_text(encoding="utf-8").splitlines()


def test_up_builds_loads_applies_and_installs_in_this_order(checkout: Path) -> None:
    done, calls = run(checkout, "up")
    assert done.returncode == 0, done.stderr
    wanted = [
        "kind create cluster --name sluice",
        *(f"kind load docker-image sluice/{image}:kind" for image in ("airflow", "job", "serving")),
        "docker/cluster/base/namespaces.yaml",
        "create secret generic sluice-store",
        "create secret generic airflow-connections",
        "apply --kustomize docker/cluster/overlays/kind",
        "helm upgrade --install airflow airflow",
        "exec --stdin",
    ]
    places = [next(i for i, call in enumerate(calls) if part in call) for part in wanted]
    assert places == sorted(places)
    assert all("--context kind-sluice" in call for call in calls if call.startswith("kubectl"))  # never another cluster


@pytest.mark.parametrize(
    ("words", "executor"), [(["up"], "kubernetes"), (["up", "kubernetes"], "kubernetes"), (["up", "celery"], "celery")]
)
def test_the_executor_is_a_word_of_up(checkout: Path, words: list[str], executor: str) -> None:
    _, calls = run(checkout, *words)
    [helm] = [call for call in calls if call.startswith("helm upgrade")]
    assert re.findall(r"(\w+)-executor.yaml", helm) == [executor]


@pytest.mark.parametrize("words", [[], ["up", "local"], ["up", "celery", "x"], ["down", "celery"]])
def test_other_words_do_nothing(checkout: Path, words: list[str]) -> None:
    done, calls = run(checkout, *words)
    assert (done.returncode, calls) == (2, [])
    assert "usage: docker/kind.sh" in done.stderr


def test_no_password_stands_on_a_command_line(checkout: Path) -> None:
    _, calls = run(checkout, "up")
    values = [line.split("=", 1)[1] for line in (checkout / "docker" / ".env").read_text(encoding="utf-8").splitlines()]
    given = "".join(call for call in calls if call.startswith("stdin "))
    assert sum(value in given for value in values) == len(values) - 2  # Redis' is the compose file's; the admin's goes to Airflow itself
    assert not [call for call in calls if not call.startswith("stdin ") and any(value in call for value in values)]


def test_each_secret_that_a_pod_names_is_made(checkout: Path) -> None:
    _, calls = run(checkout, "up")
    made = {match[1] for call in calls if (match := re.search(r"create secret generic (\S+)", call))}
    manifests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docker" / "cluster").rglob("*.yaml"))
    values = yaml.safe_load((ROOT / "docker" / "cluster" / "airflow" / "values.yaml").read_text(encoding="utf-8"))
    named = set(re.findall(r"(?:secretKeyRef|secretRef): \{name: ([\w-]+)", manifests)) | {
        values["data"]["metadataSecretName"],
        *(values[key] for key in ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName")),
        *(item["secretRef"]["name"] for item in yaml.safe_load(values["extraEnvFrom"])),
    }
    assert named == made


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_missing_is_named_with_where_to_get_it(checkout: Path, tool: str) -> None:
    (checkout / "bin" / tool).unlink()
    done, calls = run(checkout, "up")
    assert done.returncode == 1
    assert re.search(rf"{tool} is not installed; get it from https://", done.stderr)
    assert not calls


def test_an_engine_that_does_not_answer_is_named(checkout: Path) -> None:
    (checkout / "bin" / "docker").write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")
    done, calls = run(checkout, "up")
    assert (done.returncode, calls) == (1, [])
    assert "engine does not answer" in done.stderr


def test_down_takes_this_cluster_alone(checkout: Path) -> None:
    done, calls = run(checkout, "down")
    assert done.returncode == 0
    assert calls == ["kind delete cluster --name sluice"]


@pytest.mark.parametrize("executor", ["celery", "kubernetes"])
def test_airflow_is_given_the_version_that_is_locked_and_no_secret(executor: str) -> None:
    folder = ROOT / "docker" / "cluster" / "airflow"
    values = yaml.safe_load((folder / "values.yaml").read_text(encoding="utf-8"))
    lock = (ROOT / "docker" / "requirements" / "airflow.txt").read_text(encoding="utf-8").splitlines()
    assert f"apache-airflow=={values['airflowVersion']}" in lock
    assert yaml.safe_load((folder / f"{executor}-executor.yaml").read_text(encoding="utf-8"))["executor"].lower() == f"{executor}executor"
    workers = yaml.safe_load((folder / f"{executor}-executor.yaml").read_text(encoding="utf-8"))["workers"]
    assert list(workers) == [executor]  # since 1.20 the chart has each executor's settings apart, and warns of the rest
    assert not re.search(r"(?i)password\w*: *\S", (folder / "values.yaml").read_text(encoding="utf-8"))
