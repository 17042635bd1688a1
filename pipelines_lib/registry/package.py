"""The model package: a folder with everything that a version needs to answer, and nothing that executes.

model.onnx      the graph: `numeric` float32 [n, d], `categorical` int64 [n, k], `text` int64 [n, L], `series` float32 [n, T, 2c], those
                that it takes → `scores` float32 [n, C]
transform.json  the feature transform that makes the graph's inputs
profile.json    what the training rows looked like, for drift
holdout.json    recorded rows with the scores that evaluation gave, for whoever must prove that he serves this model
card.md         what a person should know
items.arrow     the items that it recommends, and known.arrow, who has met which (see `catalogue`); where the use case asks for recommendations
manifest.json   what the model is, and the SHA-256 of every other file; written last

A package is never changed: its folder's name ends in the hash of its manifest, and so of its whole content.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError

from pipelines_lib.contracts import Contract, DatasetRef, safe_name
from pipelines_lib.decision import Decision
from pipelines_lib.errors import DataError
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.features.values import Column
from pipelines_lib.graph import open_graph
from pipelines_lib.registry.catalogue import ITEMS, KNOWN, Catalogue
from pipelines_lib.s3 import S3Path
from pipelines_lib.store import StorePath, as_text, read_json, remove_tree, write_json
from pipelines_lib.use_case import LIKELY, ColumnType, Split, Task

MODEL, TRANSFORM, PROFILE, HOLDOUT, CARD, MANIFEST = (
    "model.onnx",
    "transform.json",
    "profile.json",
    "holdout.json",
    "card.md",
    "manifest.json",
)
FILES = (MODEL, TRANSFORM, PROFILE, HOLDOUT, CARD)
_HEX = 16
"""Digits of the manifest's hash in a folder's name. Those with 12 are of a time when what was hashed was not the file, and can't be checked."""
_CHUNK = 16_384
"""Rows the graph is given at once; bounds the memory of a large hold-out."""
_REMEDY = "deploy an earlier version, or train again"


class Feature(Contract):
    """One input of the model, as a request names it."""

    name: str
    type: ColumnType


class Holdout(Contract):
    """Recorded rows of the hold-out, and what the model said to them."""

    row_ids: tuple[str, ...]
    columns: dict[str, tuple[JsonValue, ...]]
    """Feature name to one value a row."""
    scores: tuple[tuple[float, ...], ...]
    """Scores [n, C] in the order of the manifest's classes."""


class Recommends(Contract):
    """What a model recommends."""

    user: Feature
    """The column that names a user, by which the items that he has met are known."""
    item: Feature
    """The column that names an item."""
    columns: tuple[str, ...]
    """The features that say what an item is; a request brings the others."""


class Manifest(Contract):
    """What the model is. Everything but `files` is given by whoever writes the package."""

    format: Literal[1, 2] = 2
    """Format 1 predicts the likelier class, whatever its operating point."""
    use_case: str
    task: Task
    classes: tuple[str, ...]
    """Names of the scores' columns, sorted; none for a regression."""
    positive: str | None = None
    separator: str | None = None
    """What stands between the classes of an answer that may have several; None where it has one."""
    features: tuple[Feature, ...]
    metrics: dict[str, float]
    """Of the hold-out."""
    snapshot: DatasetRef
    split: Split | None = None
    """What decided which rows of the snapshot were learned from; None where nobody can say (rows prepared under other settings)."""
    entity: str | None = None
    """The column that says whose row it is, where `split` goes by entity."""
    operating_point: float | None = None
    """Score of the positive class from which on it is predicted, the one with the best F1 of the validation rows; binary tasks only."""
    recommends: Recommends | None = None
    mlflow_run_id: str
    files: dict[str, str] = Field(default_factory=dict)
    """File name to SHA-256."""

    @property
    def positive_index(self) -> int | None:
        """The scores' column that holds the probability of the positive class; binary tasks only."""
        return None if self.positive is None else self.classes.index(self.positive)

    @property
    def names(self) -> tuple[str, ...]:
        """The files of the package, beside the manifest."""
        return FILES if self.recommends is None else (*FILES, ITEMS, KNOWN)

    @property
    def decision(self) -> Decision:
        """How the scores are read."""
        return Decision(
            classes=self.classes,
            positive=self.positive_index,
            operating_point=self.operating_point if self.format > 1 else None,
            separator=self.separator,
            likely=LIKELY,
        )


class Scorer:
    """A graph behind its transform: columns in, scores out."""

    def __init__(self, transform: FeatureTransform, session: Any) -> None:
        self.transform = transform
        self._session = session

    @classmethod
    def open(cls, folder: StorePath) -> Self:
        """The model.onnx and transform.json of `folder`, unverified: for the model that this very run has trained."""
        return cls(
            FeatureTransform.from_json((folder / TRANSFORM).read_text(encoding="utf-8")),
            open_graph((folder / MODEL).read_bytes(), f"{folder / MODEL}", _REMEDY),
        )

    def predict(self, columns: Mapping[str, Column]) -> NDArray[np.float32]:
        """Scores float32 [n, C]: probabilities in the order of the classes (each for itself, where a row may have several), or for a regression C = 1, in the label's units."""
        arrays = self.transform.apply(columns)
        n_rows = len(next(iter(arrays.values())))
        # A graph takes no rows as well as many; the first chunk, even an empty one, says how wide the scores are.
        chunks = [
            self._session.run(["scores"], {name: array[start : start + _CHUNK] for name, array in arrays.items()})[0]
            for start in range(0, max(1, n_rows), _CHUNK)
        ]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


class Package(Scorer):
    """An opened package, ready to answer. `open` verifies every byte."""

    def __init__(
        self, folder: StorePath, manifest: Manifest, transform: FeatureTransform, session: Any, catalogue: Catalogue | None = None
    ) -> None:
        super().__init__(transform, session)
        self.folder = folder
        self.manifest = manifest
        self.catalogue = catalogue

    @staticmethod
    def write(packages: StorePath, name: str, manifest: Manifest, files: Mapping[str, bytes]) -> StorePath:
        """Write a package below the folder `packages` and return its own folder, `<name>-<hash of its content>`.

        `files` holds the content of every name in `manifest.names`. The same content lands in the same folder, and a folder that is
        already there and whole is left alone.
        """
        assert set(files) == set(manifest.names), sorted(files)
        manifest = manifest.model_copy(update={"files": {file: _sha256(files[file]) for file in manifest.names}})
        package = f"{safe_name(name)}-{_sha256(as_text(manifest).encode())[:_HEX]}"
        if _is_whole(packages / package):
            return packages / package
        if isinstance(packages, S3Path):
            return _write_objects(packages / package, manifest, files)
        folder = packages / package
        packages.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=packages, prefix=".writing-"))
        try:
            temporary.chmod(0o755)
            for file in manifest.names:
                (temporary / file).write_bytes(files[file])
            write_json(temporary / MANIFEST, manifest)
            if folder.exists():  # damaged: the hash in its name says what it should have held
                shutil.rmtree(folder)
            os.replace(temporary, folder)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            if not _is_whole(folder):  # else another process was first with the same content
                raise
        return folder

    @classmethod
    def open(cls, folder: StorePath) -> Self:
        """Open and verify. Raises `DataError` where a file is absent, unknown, or not what the manifest says."""
        manifest, files = _verified(folder)
        transform = FeatureTransform.from_json(files[TRANSFORM].decode("utf-8"))
        if transform.columns != {feature.name: feature.type for feature in manifest.features}:
            raise DataError(f"{folder}: {TRANSFORM} and {MANIFEST} name different features; {_REMEDY}")
        catalogue = None if manifest.recommends is None else Catalogue.opened(files, manifest.recommends.columns, str(folder))
        return cls(folder, manifest, transform, open_graph(files[MODEL], f"{folder / MODEL}", _REMEDY), catalogue)

    def profile(self) -> str:
        """The data profile of the training rows, as JSON text."""
        return (self.folder / PROFILE).read_text(encoding="utf-8")

    def holdout(self) -> Holdout:
        """The recorded rows."""
        return Holdout.model_validate(read_json(self.folder / HOLDOUT))


def predicted(manifest: Manifest, scores: NDArray[np.float32]) -> tuple[list[str] | list[float], NDArray[np.float64]]:
    """What the model predicts by `scores` [n, C], and one score a row: see `Decision.of`."""
    return manifest.decision.of(scores)


def _write_objects(folder: S3Path, manifest: Manifest, files: Mapping[str, bytes]) -> S3Path:
    """The manifest goes last: without it there is no package. What a damaged one holds besides goes first."""
    remove_tree(folder)
    for file in manifest.names:
        (folder / file).write_bytes(files[file])
    write_json(folder / MANIFEST, manifest)
    return folder


def _verified(folder: StorePath) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and the files whose hashes it has."""
    remedy = "deploy an earlier version, or train again"
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder} holds no {MANIFEST}, so it is no (complete) model package; {remedy}")
    text = (folder / MANIFEST).read_bytes()
    promised = folder.name.rpartition("-")[2]
    if len(promised) == _HEX and _sha256(text)[:_HEX] != promised:
        raise DataError(
            f"{folder / MANIFEST} was changed: its SHA-256 begins with {_sha256(text)[:_HEX]}, the folder's name says {promised}; {remedy}"
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"{folder / MANIFEST} is not a package's manifest: {error}; {remedy}") from error
    # The names come from a file: only the known ones are ever opened, so none can point elsewhere.
    if set(manifest.files) != set(manifest.names):
        raise DataError(f"{folder / MANIFEST} lists {sorted(manifest.files)}, and such a package has {sorted(manifest.names)}; {remedy}")
    if unknown := {entry.name for entry in folder.iterdir()} - {*manifest.names, MANIFEST}:
        raise DataError(f"{folder} holds files that no package has: {sorted(unknown)}; {remedy}")
    files = {}
    for name, expected in manifest.files.items():
        path = folder / name
        if (isinstance(path, Path) and path.is_symlink()) or not path.is_file():
            raise DataError(f"{path} is absent or not a plain file; {remedy}")
        files[name] = path.read_bytes()
        if (found := _sha256(files[name])) != expected:
            raise DataError(f"{path} was changed: its SHA-256 is {found}, the manifest says {expected}; {remedy}")
    return manifest, files


def _is_whole(folder: StorePath) -> bool:
    if not folder.exists():
        return False
    try:
        _verified(folder)
    except DataError:
        return False
    return True


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
