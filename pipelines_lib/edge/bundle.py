"""A bundle: what a device needs to answer, signed. Nothing in it executes, and nothing of it is used before it is verified.

model.onnx      the graph, as it is or in a smaller number format
transform.json  the feature transform, the very one of the package
manifest.json   `signed`: what the model is, and the SHA-256 of the two; `signature`: ed25519 over `signed`

This module is the device's too: it imports neither pydantic nor anything that a device lacks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pipelines_lib.decision import Decision
from pipelines_lib.errors import DataError
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.graph import open_graph

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from numpy.typing import NDArray

    from pipelines_lib.features.values import Column

MODEL, TRANSFORM, MANIFEST, POINTER = "model.onnx", "transform.json", "manifest.json", "pointer.json"
FORMAT = 2
"""Of a bundle. Format 1 predicts the likelier class, whatever the operating point; it is read still."""


def sealed(document: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """`document` with its signature."""
    return {"signed": dict(document), "signature": key.sign(_canonical(document)).hex()}


def pointer_of(data: bytes, keys: Sequence[Ed25519PublicKey], where: str) -> dict[str, Any]:
    """The pointer in `data`. Raises `DataError` where the owner of none of `keys` signed one."""
    return _unsealed(data, keys, where, ("serial", "stable", "candidate", "share"))


def manifest_of(data: bytes, keys: Sequence[Ed25519PublicKey], where: str, name: str) -> dict[str, Any]:
    """The manifest in `data`, of the bundle `name`. Raises `DataError` where the owner of none of `keys` signed it, or it is another bundle's.

    Without a look at the name, an old bundle, whose signature is good, could be put in a new one's place.
    """
    manifest = _unsealed(data, keys, where, ("version", "precision", "features", "files"))
    if name != (own := name_of(manifest)):
        raise DataError(f"{where} is the manifest of another bundle, {own}, put in this one's place; release {name} again")
    return manifest


def name_of(manifest: Mapping[str, Any]) -> str:
    """The name of the bundle with this manifest, which says of every byte what it is: the same content has the same name, and no other has it."""
    content = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return f"v{manifest['version']}-{manifest['precision']}-{content[:12]}"


def public_keys(text: str) -> tuple[Ed25519PublicKey, ...]:
    """The keys that `sluice edge key` printed: 32 bytes in hexadecimal each, one a line, the newest first. Raises `DataError`."""
    try:
        keys = tuple(Ed25519PublicKey.from_public_bytes(bytes.fromhex(line)) for line in text.split())
    except ValueError:
        keys = ()
    if not keys:
        raise DataError("it holds no public keys: one a line, 64 hexadecimal digits each, as `sluice edge key` prints them")
    return keys


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle, ready to answer."""

    manifest: dict[str, Any]
    transform: FeatureTransform
    session: Any

    @classmethod
    def open(cls, files: Mapping[str, bytes], keys: Sequence[Ed25519PublicKey], where: Path) -> Self:
        """Verify every byte of `files`, then open them; the folder `where` they were in has the bundle's name. Raises `DataError`."""
        manifest = manifest_of(files[MANIFEST], keys, f"{where}/{MANIFEST}", where.name)
        for name in (MODEL, TRANSFORM):
            if hashlib.sha256(files[name]).hexdigest() != manifest["files"][name]:
                raise DataError(f"{where}/{name} is not what the manifest says; pull it again, or release it again")
        return cls(
            manifest=manifest,
            transform=FeatureTransform.from_json(files[TRANSFORM].decode("utf-8")),
            session=open_graph(files[MODEL], f"{where}/{MODEL}", "release it in another precision"),
        )

    @property
    def decision(self) -> Decision:
        """How the scores are read, as the package does."""
        names = ("classes", "positive", "operating_point", "separator", "likely")
        return Decision(**{name: self.manifest[name] for name in names if name in self.manifest})

    def predict(self, columns: Mapping[str, Column]) -> NDArray[np.float32]:
        """Scores float32 [n, C], as the package's `predict`."""
        scores: NDArray[np.float32] = self.session.run(["scores"], self.transform.apply(columns))[0]
        return scores


def _unsealed(data: bytes, keys: Sequence[Ed25519PublicKey], where: str, fields: Collection[str]) -> dict[str, Any]:
    try:
        both = json.loads(data)
        document, signature = both["signed"], bytes.fromhex(both["signature"])
        known = any(_signed(key, signature, _canonical(document)) for key in keys)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is no signed document ({error!r:.200}); release it again") from error
    if not known:
        raise DataError(
            f"{where} is not signed with the key that is trusted here; give this device the key that `sluice edge key` prints, "
            "or, where the key was changed, let `sluice edge resign` sign it anew"
        )
    if not isinstance(document, dict) or document.get("format") not in range(1, FORMAT + 1):
        raise DataError(f"{where} has a format that this device does not read (it reads 1 to {FORMAT}); bring the device up to date")
    if lacks := [field for field in fields if field not in document]:
        raise DataError(f"{where} is signed, and is another document: it lacks {', '.join(lacks)}; release it again")
    return document


def _signed(key: Ed25519PublicKey, signature: bytes, document: bytes) -> bool:
    try:
        key.verify(signature, document)
    except InvalidSignature:
        return False
    return True


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
