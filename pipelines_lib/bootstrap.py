"""Makes `.venv` from the lock; run by `make` with the system's Python, before anything is installed.

Standard library only, and no import of its own package. What a user can meet ends as a sentence and a non-zero exit
code: an old Python, a missing venv module, a full disk, no network.

    python3 pipelines_lib/bootstrap.py [--dev]
"""

import hashlib
import os
import shutil
import subprocess
import sys

MINIMUM = (3, 11)
UV = "uv==0.13.9"
NEEDED_GIB = 5
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(FOLDER, ".venv")


def main():
    """Install what the lock says, unless it is installed already."""
    if sys.version_info < MINIMUM:
        stop(
            "Sluice needs Python 3.11 or newer, and this is %s (%s). Install one, or name it: make PYTHON=/path/to/python3.12 demo"
            % (sys.version.split()[0], sys.executable)
        )
    files = ["requirements.txt"] + (["requirements-dev.txt"] if "--dev" in sys.argv else [])
    if is_installed(files):
        return
    free = shutil.disk_usage(FOLDER).free / 2**30
    if free < NEEDED_GIB:
        stop("installing takes about %d GiB, and %.1f GiB are free at %s; free some space first" % (NEEDED_GIB, free, FOLDER))
    if not os.path.exists(os.path.join(VENV, "bin", "python")):
        run(
            "making .venv",
            [sys.executable, "-m", "venv", VENV],
            "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv",
        )
    python = os.path.join(VENV, "bin", "python")
    no_network = (
        "is there a network, and does `python3 -m pip download pip` work? Behind a proxy set HTTPS_PROXY, for a mirror PIP_INDEX_URL"
    )
    run("installing uv", [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV], no_network)
    # torch comes by pip, so that the user's choice of its CPU or CUDA build (an index, a local wheel) holds; uv then finds it there.
    torch = [line for line in read("requirements.txt").splitlines() if line.startswith("torch==")]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "requirements.txt", *torch]
    run("installing torch", pip, no_network)
    lists = [argument for name in files for argument in ("-r", name)]
    run("installing the locked requirements", [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, *lists], no_network)
    run(
        "installing sluice",
        [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, "--no-deps", "--editable", "."],
        no_network,
    )
    for name in ["requirements.txt", "requirements-dev.txt"]:
        if name in files:
            with open(stamp(name), "w", encoding="utf-8") as file:
                file.write(digest(name))


def is_installed(files):
    """Whether every list was installed as it stands now."""
    return all(os.path.exists(stamp(name)) and read(stamp(name)) == digest(name) for name in files)


def stamp(name):
    """Where it is written down which version of list `name` is installed."""
    return os.path.join(VENV, ".installed-" + name)


def digest(name):
    """Hash of a list, of the package's own settings, and of where the checkout lies."""
    return hashlib.sha256((read(name) + read("pyproject.toml") + FOLDER).encode()).hexdigest()


def read(name):
    """Text of a file of the checkout."""
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()


def run(what, command, remedy):
    """Run a step, its output shown only where it fails."""
    print("  … " + what, flush=True)
    done = subprocess.run(command, cwd=FOLDER, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        tail = done.stdout.decode("utf-8", "replace").strip().splitlines()[-6:]
        stop("%s failed: %s\nThe installer said:\n    %s" % (what, remedy, "\n    ".join(tail)))


def stop(sentence):
    """End with a sentence."""
    sys.stderr.write("sluice: " + sentence + "\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
