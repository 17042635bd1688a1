"""Renews requirements.txt from pyproject.toml, then the list of each role's image, which holds no other version of anything.

`make lock` runs it. Options go to uv: `python docker/requirements/lock.py --upgrade`.
"""

import subprocess
import sys
from pathlib import Path

ROLES = ("airflow", "job", "serving", "edge")
IMAGE_EXTRAS = {"airflow": ("server",)}
"""What the image of a role has beside the role; it is in no lock of a laptop."""
ROOT = Path(__file__).parents[2]


def compile_list(source: str, target: str, *options: str) -> None:
    """Resolve `source` for every platform and Python from 3.11 on, into `target`."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11", "--no-header", "--quiet"]
    subprocess.run([*uv, *options, "--output-file", target, source], cwd=ROOT, check=True)


def main() -> None:
    """The whole lock first; every other list is held to it."""
    compile_list("pyproject.toml", "requirements.txt", *(option for role in ROLES for option in ("--extra", role)), *sys.argv[1:])
    for role in ROLES:
        extras = (option for extra in (role, *IMAGE_EXTRAS.get(role, ())) for option in ("--extra", extra))
        compile_list("pyproject.toml", f"docker/requirements/{role}.txt", *extras, "--constraint", "requirements.txt", "--no-annotate")
    compile_list("requirements-dev.in", "requirements-dev.txt")


if __name__ == "__main__":
    main()
