"""A bundle: what a device needs to answer, signed. Nothing in it executes, and nothing of it is used before it is verified.

model.onnx      the graph, as it is or in a smaller number format
transform.json  the feature transform, the very one of the package
manifest.json   `signed`: what the model is, and the SHA-256 of the two; `signature`: ed25519 over `signed`

This module is the device's too: it imports neither pydantic nor anything that a device lacks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from numpy.typing import NDArray

    from pipelines_lib.features.values import Column

MODEL, TRANSFORM, MANIFEST = "model.onnx", "transform.json", "manifest.json"
FORMAT = 2
"""Of a bundle. Format 1 predicts the likelier class, whatever the operating point; it is read still."""
_SHARES = 10_000


def sealed(document: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """`document` with its signature."""
    return {"signed": dict(document), "signature": key.sign(_canonical(document)).hex()}


def unsealed(data: bytes, key: Ed25519PublicKey, where: str) -> dict[str, Any]:
    """The document in `data`. Raises `DataError` where the owner of `key` did not sign it."""
    try:
        both = json.loads(data)
        document, signature = both["signed"], bytes.fromhex(both["signature"])
        key.verify(signature, _canonical(document))
    except InvalidSignature as error:
        raise DataError(
            f"{where} is not signed with the key that this device trusts; release it again, or give the device that key"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where} is no signed document ({error!r}); release it again") from error
    if not isinstance(document, dict) or document.get("format") not in range(1, FORMAT + 1):
        raise DataError(f"{where} has a format that this device does not read (it reads 1 to {FORMAT}); bring the device up to date")
    return document


def public_key(text: str) -> Ed25519PublicKey:
    """The key that `sluice edge key` printed: 32 bytes in hexadecimal. Raises `DataError`."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.strip()))
    except ValueError as error:
        raise DataError("a public key is 64 hexadecimal digits, as `sluice edge key` prints it") from error


def within(device: str, bundle: str, share: float) -> bool:
    """Whether `device` is among the `share` (0 to 1) of devices that get `bundle` first.

    A wider share holds all devices of a narrower one; another bundle tries itself on others.
    """
    place = int.from_bytes(hashlib.sha256(f"{bundle}\n{device}".encode()).digest()[:8]) % _SHARES
    return place < round(share * _SHARES)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle, ready to answer."""

    manifest: dict[str, Any]
    transform: FeatureTransform
    session: Any

    @classmethod
    def open(cls, files: Mapping[str, bytes], key: Ed25519PublicKey, where: str) -> Self:
        """Verify every byte of `files`, then open. Raises `DataError`."""
        manifest = unsealed(files[MANIFEST], key, f"{where}/{MANIFEST}")
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


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
