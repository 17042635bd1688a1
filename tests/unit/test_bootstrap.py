"""What a user can meet before anything is installed ends as a sentence and a non-zero exit code."""

import collections
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, working on an empty checkout."""
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", ROOT / "pipelines_lib" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", str(tmp_path))
    monkeypatch.setattr(module, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(sys, "argv", ["bootstrap.py"])
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").touch()
    return module


def stopped(bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        bootstrap.main()
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("sluice: ")
    assert "Traceback" not in error
    return error


def test_an_old_python(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    assert "needs Python 3.11 or newer" in stopped(bootstrap, capsys)


def test_a_full_disk(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: usage(10, 9, 2**30))
    assert "1.0 GiB are free" in stopped(bootstrap, capsys)


def test_no_network(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    error = stopped(bootstrap, capsys)
    assert "is there a network" in error
    assert "The installer said:" in error


def test_what_is_installed_is_not_installed_again(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(bootstrap, "run", lambda what, *_: done.append(what))
    (Path(bootstrap.VENV)).mkdir()
    bootstrap.main()
    assert done[0] == "making .venv"
    done.clear()
    bootstrap.main()
    assert done == []
    (Path(bootstrap.FOLDER) / "requirements.txt").write_text("torch==2.13.1\n", encoding="utf-8")
    bootstrap.main()
    assert "installing torch" in done


def test_it_parses_on_a_python_too_old_for_the_rest() -> None:
    """No syntax newer than 3.6, so that an old Python reaches the sentence."""
    import ast

    ast.parse((ROOT / "pipelines_lib" / "bootstrap.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def test_make_names_a_python_that_is_missing() -> None:
    done = subprocess.run(["make", "-C", str(ROOT), "PYTHON=no-such-python", "setup"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "sluice: no Python 3.11 or newer was found (looked for no-such-python)" in done.stderr
