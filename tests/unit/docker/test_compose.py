"""The compose file and its passwords."""

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docker" / "compose.yaml"
TEXT = FILE.read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def make_env(folder: Path) -> Path:
    """docker/.env as a fresh checkout in `folder` gets it."""
    script = folder / "make_env.py"
    script.write_text((ROOT / "docker" / "make_env.py").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, script], check=True)
    return folder / ".env"


def test_it_is_a_compose_file() -> None:
    subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE], check=True, capture_output=True
    )


def test_its_ports_are_this_machines_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_it_needs(name: str) -> None:
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert wanted["condition"] == "service_completed_successfully" if other == "migrate" else "service_healthy"
        assert other == "migrate" or "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_version_and_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?", service["image"])
    assert service["cap_drop"] == ["ALL"]
    if service["image"].startswith("sluice/"):
        builders = [each for each in SERVICES.values() if each["image"] == service["image"] and "build" in each]
        assert len(builders) == 1  # two would build the same image twice
        target = builders[0]["build"]["target"]
        assert f" AS {target}\n" in (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")


def test_every_password_is_drawn_and_none_stands_in_the_file(tmp_path: Path) -> None:
    path = make_env(tmp_path)
    drawn = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", TEXT)) == drawn.keys()
    assert all(len(value) >= 20 for value in drawn.values())
    assert len(set(drawn.values())) == len(drawn)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "/docker/.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_passwords_that_are_there_stay_and_a_new_one_is_added(tmp_path: Path) -> None:
    path = make_env(tmp_path)
    before = path.read_text(encoding="utf-8")
    make_env(tmp_path)
    assert path.read_text(encoding="utf-8") == before
    lines = before.splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    make_env(tmp_path)
    *kept, added = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert kept == lines[1:]
    assert added != lines[0]
    assert added.split("=")[0] == lines[0].split("=")[0]


def test_a_worker_has_each_connection_that_a_shipped_use_case_needs() -> None:
    """The store of the profile, and the key of the columns that are hashed."""
    given = {
        name.removeprefix("AIRFLOW_CONN_").lower() for name in SERVICES["airflow-worker"]["environment"] if name.startswith("AIRFLOW_CONN_")
    }
    assert given == {"store", "sluice_privacy"}
