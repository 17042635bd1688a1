"""What an operator asks of `sluice edge`: a version released to devices, given to more, taken back, signed anew."""

import argparse
import os
import sys
from typing import Any

from pipelines_lib.config import Project
from pipelines_lib.connections import connection
from pipelines_lib.contracts import safe_name
from pipelines_lib.data.sides import TEST
from pipelines_lib.data.snapshot import Snapshot, read
from pipelines_lib.data.tables import Tables
from pipelines_lib.edge.parity import judged, measured
from pipelines_lib.edge.precision import calibration
from pipelines_lib.edge.release import pointer, private_key, release, resign, roll_back, widen
from pipelines_lib.errors import BadInput, DataError, Held
from pipelines_lib.evaluation.gates import held
from pipelines_lib.features.transform import Arrays
from pipelines_lib.registry.package import Package
from pipelines_lib.serving.pointer import package_folder, read_pointer
from pipelines_lib.store import StorePath, store_of
from pipelines_lib.use_case import UseCase


def operate(given: argparse.Namespace) -> dict[str, Any]:
    """Do what the arguments say; returns what to print."""
    key = private_key(connection(given.key, os.environ))
    if given.what == "key":
        return {"key": key.public_key().public_bytes_raw().hex()}
    project = Project.from_environment()
    use_case = project.use_case(given.use_case)
    root = store_of(project.profile()) / given.use_case
    group = root / "edge" / safe_name(given.group)
    match given.what:
        case "status":
            return pointer(group, key)
        case "rollback":
            return roll_back(group, key)
        case "widen":
            return widen(group, key, given.share)
        case "resign":
            return resign(group, key, private_key(connection(given.was, os.environ)))
    deployed = read_pointer(root)
    if deployed is None or deployed.champion is None:
        raise BadInput(f"no version of {use_case.name} serves yet; run its training first")
    if private := [name for name in use_case.private() if name in use_case.features()]:
        raise BadInput(f"features {', '.join(private)} are protected with a key that no device may hold; leave them out of the features")
    package = Package.open(package_folder(root, deployed.champion))
    learned = on_holdout = None
    if (snapshot := _snapshot(root, package, needed=given.precision == "int8_static")) is not None:
        learned = calibration(snapshot, package.transform)
        on_holdout = _judged(use_case, package, snapshot, learned, given)
    name, figures = release(
        package,
        group,
        key,
        version=deployed.champion.version,
        precision=given.precision,
        share=given.share,
        bound=given.bound,
        calibration=learned,
    )
    return {"bundle": name, "holdout": on_holdout, "figures": figures}


def _judged(use_case: UseCase, package: Package, snapshot: Snapshot, learned: Arrays, given: argparse.Namespace) -> dict[str, Any]:
    """As the stage `release` does. Raises `Held`."""
    figures = measured(use_case, package, snapshot.side(TEST), given.precision, learned)
    if (reason := held(judged(figures, bound=given.bound, loss=given.loss))) is not None:
        raise Held(f"{reason}. Release another precision, or allow it with --bound or --loss", figures)
    return figures


def _snapshot(root: StorePath, package: Package, *, needed: bool) -> Snapshot | None:
    """What the package's model was trained and judged on. Rows that can't be read any more are an error where they are needed."""
    try:
        return read(Tables(root), package.manifest.snapshot)
    except DataError as error:
        if needed:
            raise
        print(  # noqa: T201
            f"sluice: only the package's recorded rows judge, by their scores, and int8_static is not measured: {error}", file=sys.stderr
        )
        return None
