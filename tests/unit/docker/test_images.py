"""The images: what can be known of them without building one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines_lib import bootstrap

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
TEXT = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
LINES = [line for line in re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", TEXT)).splitlines() if line.strip()]
TARGETS = ("airflow", "worker", "job", "job-cuda", "serving")


def stages() -> dict[str, tuple[str, list[str]]]:
    """Name of a stage to what it starts from and its instructions."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in LINES:
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line.strip()):
            name = match[2]
            found[name] = (match[1], [])
        elif name:
            found[name][1].append(line.strip())
    return found


def instructions(name: str) -> list[str]:
    """Of a stage and of those it starts from."""
    base, own = stages()[name]
    return [*(instructions(base) if base in stages() else []), *own]


def test_the_linters_find_nothing() -> None:
    subprocess.run([BIN / "hadolint", ROOT / "docker" / "Dockerfile"], check=True)
    scripts = [ROOT / "docker" / "clean-logs", *(ROOT / "docker").rglob("*.sh")]
    subprocess.run([BIN / "shellcheck", *scripts], check=True)


def test_the_base_image_has_an_exact_version() -> None:
    [default] = [line.split("=", 1)[1] for line in LINES if line.startswith("ARG PYTHON_IMAGE=")]
    assert re.fullmatch(r"\S+:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", default)
    assert {base for base, _ in stages().values()} <= {"${PYTHON_IMAGE}", "scratch", *stages()}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_numeric_user_and_has_no_tool_to_build_with(target: str) -> None:
    own = instructions(target)
    assert [line for line in own if line.startswith("USER")][-1] == "USER 50000:0"  # runAsNonRoot can't check a name
    assert stages()[target][1], f"{target} is no stage"
    installed = " ".join(line for line in own if line.startswith("RUN"))
    assert not re.search(r"pip install|\b(gcc|build-essential|git)\b", installed)
    assert any(line.startswith("ENTRYPOINT") and '"tini"' in line for line in own)


def test_only_the_service_says_how_it_is() -> None:
    assert {name for name in TARGETS if any(line.startswith("HEALTHCHECK") for line in instructions(name))} == {"serving"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_to_the_code_leaves_the_environment_s_layer_as_it_is(target: str) -> None:
    copies = [line for line in instructions(target) if line.startswith("COPY --from=")]
    assert copies == [f"COPY --from=build-{target} /opt/venv /opt/venv", "COPY --from=code /opt/sluice /opt/sluice"]


@pytest.mark.parametrize("role", ["airflow", "job", "serving"])
def test_an_environment_is_made_from_its_list_alone(role: str) -> None:
    own = stages()[f"build-{role}"][1]
    assert f"COPY docker/requirements/{role}.txt ./" in own
    assert [line for line in own if f"uv pip install --no-deps -r {role}.txt" in line]


def test_a_build_of_torch_that_does_not_import_ends_the_build() -> None:
    for role in ("job", "job-cuda"):
        [installs] = [line for line in stages()[f"build-{role}"][1] if line.startswith("RUN")]
        assert "&& /opt/venv/bin/python -c 'import torch" in installs


def test_what_is_copied_exists_and_is_let_through() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")]
    copied = [part for line in LINES if line.startswith("COPY") and "--from" not in line for part in line.split()[1:-1] if part[:2] != "--"]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) for pattern in allowed), f".dockerignore keeps {source} out"


def test_the_installer_is_the_one_of_a_laptop() -> None:
    assert f"ARG UV_VERSION={bootstrap.UV.removeprefix('uv==')}" in LINES
