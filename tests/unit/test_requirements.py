"""One lock; every other list is held to it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROLES = ("airflow", "job", "serving", "edge")
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)(.*)$")


def pins(path: str) -> dict[str, set[str]]:
    """Name to pinned versions (more than one where a marker tells platforms apart)."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            match = PIN.match(line)
            assert match is not None, f"{path}: {line!r} is not a pin"
            found.setdefault(match[1].lower(), set()).add(match[2])
    return found


def test_the_lock_holds_what_the_product_is_made_of() -> None:
    lock = pins("requirements.txt")
    assert lock["torch"] == {"2.13.0"}
    assert tuple(map(int, next(iter(lock["apache-airflow"])).split("."))) >= (3, 3, 2)
    wanted = {
        "apache-airflow-providers-cncf-kubernetes",
        "apache-airflow-providers-amazon",
        "pandas",
        "great-expectations",
        "mlflow",
        "boto3",
        "kubernetes",
        "deltalake",
    }
    assert wanted <= lock.keys()
    assert not [name for name in lock if name.startswith("nvidia")]  # the user's choice of torch brings them


@pytest.mark.parametrize("role", ROLES)
def test_a_role_holds_what_the_lock_holds(role: str) -> None:
    lock, mine = pins("requirements.txt"), pins(f"docker/requirements/{role}.txt")
    assert mine
    beside = {name for name in mine if name not in lock}
    assert {name: mine[name] for name in mine.keys() - beside if not mine[name] <= lock[name]} == {}
    # A server has logins, PostgreSQL and Celery, which no laptop needs.
    assert bool(beside) == (role == "airflow")


def test_the_test_tools_do_not_move_the_lock() -> None:
    lock, tools = pins("requirements.txt"), pins("requirements-dev.txt")
    assert {name for name in tools.keys() & lock.keys() if not tools[name] <= lock[name]} == set()


def test_the_airflow_role_is_light_and_the_edge_role_lighter() -> None:
    heavy = {"torch", "pandas", "great-expectations", "mlflow", "pyarrow", "scikit-learn", "onnxruntime"}
    airflow = pins("docker/requirements/airflow.txt").keys()
    assert not heavy & airflow
    assert {f"apache-airflow-providers-{name}" for name in ("celery", "fab", "postgres", "cncf-kubernetes", "amazon")} <= airflow
    assert not (heavy - {"onnxruntime"} | {"apache-airflow", "fastapi"}) & pins("docker/requirements/edge.txt").keys()
