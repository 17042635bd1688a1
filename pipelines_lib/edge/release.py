"""What an operator does: make a bundle of a package, and say which devices of a group get it.

`<root>/edge/<group>/` holds the bundles, and `pointer.json`, signed as they are, which says who gets which (`rollout`). Its `serial` rises, so that
a device can't be led back to an older one, and it names its `group`, so that it can't be led into another.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import JsonValue

from pipelines_lib.connections import Connection
from pipelines_lib.edge.bundle import FORMAT, MANIFEST, MODEL, POINTER, TRANSFORM, manifest_of, name_of, pointer_of, sealed
from pipelines_lib.edge.parity import compared
from pipelines_lib.edge.precision import Precision, in_precision
from pipelines_lib.edge.rollout import NOTHING, Pointer, offered, taken_back, widened
from pipelines_lib.errors import BadInput, ConfigError, Held
from pipelines_lib.features.transform import Arrays
from pipelines_lib.registry.package import Package
from pipelines_lib.store import StorePath, update_json, write_bytes


def private_key(given: Connection) -> Ed25519PrivateKey:
    """The key in the connection's password: a seed of 32 bytes in hexadecimal. Raises `ConfigError`, which does not quote it."""
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(given.password or ""))
    except ValueError:
        pass  # the parser's message may quote the secret
    raise ConfigError(
        f"connection {given.name!r}: its password is no ed25519 key; give it 64 hexadecimal digits, such as `openssl rand -hex 32` makes"
    )


def release(
    package: Package,
    group: StorePath,
    key: Ed25519PrivateKey,
    *,
    version: int,
    precision: Precision,
    share: float,
    bound: float,
    calibration: Arrays | None = None,
) -> tuple[str, dict[str, dict[str, float]]]:
    """Put the package up for a share (0 to 1) of the devices of `group`; the first bundle of a group, or a share of 1, is for all.

    Returns the bundle's name and the figures of each precision on the recorded rows; of int8_static where there are `calibration` rows, which it
    needs. The same package again is the same bundle.
    Raises `Held` where a score moves by more than `bound`.
    """
    holdout = package.holdout()
    arrays, expected = package.transform.apply(holdout.columns), np.array(holdout.scores, np.float32)
    model = (package.folder / MODEL).read_bytes()
    tried = [each for each in get_args(Precision) if each != "int8_static" or calibration is not None]
    graphs = {each: in_precision(model, each, calibration) for each in tried}
    figures = {each: compared(graph, arrays, expected, package.manifest.decision) for each, graph in graphs.items()}
    moved = figures[precision]["largest_difference"]
    if not moved <= bound:  # NaN is no parity either
        raise Held(
            f"{precision} moves a score by {moved:.3g}, more than {bound:g}; release fp16 or fp32, or allow it with --bound",
            dict(figures[precision]),
        )
    files = {MODEL: graphs[precision], TRANSFORM: package.transform.to_json().encode()}
    given = package.manifest
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "use_case": given.use_case,
        "version": version,
        "package": package.folder.name,
        "precision": precision,
        "task": given.task,
        **asdict(given.decision),
        "features": {feature.name: feature.type for feature in given.features},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "sizes": {name: len(data) for name, data in files.items()},
    }
    name = name_of(manifest)
    for file, data in files.items():
        write_bytes(group / name / file, data)
    _write_manifest(group / name, manifest, key)

    _change(group, key, partial(offered, bundle=name, share=share))
    return name, figures


def widen(group: StorePath, key: Ed25519PrivateKey, share: float) -> Pointer:
    """Give the candidate to a share of devices; with 1 it becomes the stable bundle. Raises `BadInput` where there is none."""
    return _change(group, key, partial(widened, share=share))


def roll_back(group: StorePath, key: Ed25519PrivateKey) -> Pointer:
    """Take the candidate away from all devices; where there is none, go back to the previous stable bundle. Raises `BadInput` where there is neither."""
    return _change(group, key, taken_back)


def pointer(group: StorePath, key: Ed25519PrivateKey) -> Pointer:
    """What the group points to. Raises `BadInput` where nothing was released, `DataError` where another key signed it."""
    return _pointer(group, [key.public_key()])


def resign(group: StorePath, key: Ed25519PrivateKey, was: Ed25519PrivateKey) -> Pointer:
    """Sign with `key` what `was` signed: the bundles that the group points to, then its pointer. Done again it only raises the serial."""
    keys = [key.public_key(), was.public_key()]
    now = _pointer(group, keys)
    for name in dict.fromkeys(now[which] for which in ("stable", "candidate", "previous")):
        if name is not None:
            path = group / name / MANIFEST
            _write_manifest(group / name, manifest_of(path.read_bytes(), keys, str(path), name), key)
    return _change(group, key, dict, keys)  # a copy: written, and nothing in it changed


def _pointer(group: StorePath, keys: Sequence[Ed25519PublicKey]) -> Pointer:
    if not (group / POINTER).exists():
        raise BadInput(f"nothing was released to {group}; `sluice edge release` does it")
    return pointer_of((group / POINTER).read_bytes(), keys, str(group / POINTER))


def _write_manifest(bundle: StorePath, manifest: Mapping[str, Any], key: Ed25519PrivateKey) -> None:
    write_bytes(bundle / MANIFEST, (json.dumps(sealed(manifest, key), indent=1, ensure_ascii=False) + "\n").encode())


def _id(group: StorePath) -> str:
    """The group's name, with its use case's: a key may sign for several."""
    return f"{group.parent.parent.name}/{group.name}"


def _change(
    group: StorePath,
    key: Ed25519PrivateKey,
    change: Callable[[Pointer], Pointer],
    keys: Sequence[Ed25519PublicKey] = (),
) -> Pointer:
    """Change the pointer, which one of `keys` signed (`key`'s own, where none is given); where `change` returns what it was given, nothing is written."""
    written: Pointer = {}

    def next_of(found: JsonValue) -> JsonValue:
        now: Pointer = {"format": 1, "serial": 0, "group": _id(group), **NOTHING}
        if found is not None:
            now = pointer_of(json.dumps(found).encode(), keys or [key.public_key()], str(group / POINTER))
        changed = change(now)
        written.update(now if changed is now else {**changed, "group": _id(group), "serial": now["serial"] + 1})
        return None if changed is now else sealed(written, key)

    update_json(group / POINTER, next_of)
    return written
