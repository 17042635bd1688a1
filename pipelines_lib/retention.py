"""`sluice vacuum`: remove old versions of a use case's tables, and never one that a model was trained on.

Every write of a partition leaves its former rows behind, readable under the version that held them. What no model and no
training run names goes once it is old enough. The present rows of every partition stay, however old. What servers counted on a day goes, too,
once the table `health` has it.
"""

import time
from dataclasses import dataclass
from typing import Any, get_args

from pipelines_lib.contracts import DatasetRef, Pipeline
from pipelines_lib.data.partition_writer import STAGING
from pipelines_lib.data.tables import Layer, Tables
from pipelines_lib.errors import BadInput
from pipelines_lib.serving.health import FOLDER
from pipelines_lib.store import StorePath, below, read_json

_DAY = 24 * 3600


@dataclass(frozen=True)
class Removed:
    """What went from one layer, or would go."""

    layer: str
    """Or `counts`: the files in which servers counted, one a server and day."""
    n_files: int
    n_bytes: int
    kept_versions: tuple[int, ...]
    """Versions that a model or a training run names."""


def vacuum(root: StorePath, days: int, *, dry_run: bool = False) -> list[Removed]:
    """Remove, from every table below the use case's folder `root`, files that only versions older than `days` name.

    Raises `BadInput` for less than a day: a run that is at work reads the version that it began with.
    """
    if days < 1:
        raise BadInput(
            f"--days {days}: versions are kept for a day at least, since a run reads the version that it began with; ask for 1 or more"
        )
    tables = Tables(root)
    pinned = pinned_versions(root)
    removed = []
    for layer in get_args(Layer):
        folder = tables.path(layer)
        if not (folder / "_delta_log").is_dir():
            continue
        kept = tuple(version for version in sorted(pinned.get(layer, ())) if version <= tables.version(layer))
        unnamed = set(tables.vacuum(layer, hours=days * 24, keep_versions=kept, dry_run=True))
        left = [path for path in (folder / STAGING).glob("*") if time.time() - path.stat().st_mtime > days * _DAY]
        going = [*left, *(path for path in folder.glob("*/*.parquet") if below(folder, path) in unnamed)]
        n_bytes = sum(path.stat().st_size for path in going)
        if not dry_run:
            # By Delta, not from the list: a run that wrote the same rows meanwhile has put the same names to use again.
            tables.vacuum(layer, hours=days * 24, keep_versions=kept)
            for path in left:
                path.unlink(missing_ok=True)
        removed.append(Removed(layer, len(unnamed) + len(left), n_bytes, kept))
    counted = _counted(tables, time.time() - days * _DAY)
    n_bytes = sum(path.stat().st_size for path in counted)
    if not dry_run:
        for path in counted:
            path.unlink(missing_ok=True)
    return [*removed, *([Removed("counts", len(counted), n_bytes, ())] if counted else [])]


def _counted(tables: Tables, before: float) -> list[StorePath]:
    """Files of what servers counted on partitions that were measured, all of a partition written before that time."""
    found = []
    for key in tables.partitions("health"):
        files: list[StorePath] = list((tables.root / FOLDER / key).glob("*.json"))
        if all(path.stat().st_mtime < before for path in files):
            found += files
    return found


def pinned_versions(root: StorePath) -> dict[str, set[int]]:
    """Table to the versions that a registered model's package, or a training run that has not been cleaned away, names."""
    pinned: dict[str, set[int]] = {}
    for path in (*root.glob("packages/*/manifest.json"), *root.glob(f"runs/{Pipeline.TRAINING}/*/snapshot/result.json")):
        document: Any = read_json(path)
        found = document.get("snapshot") or document.get("outputs", {}).get("snapshot")
        if found is not None:
            ref = DatasetRef.model_validate(found)
            pinned.setdefault(ref.table, set()).add(ref.version)
    return pinned
