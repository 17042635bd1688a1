"""What an operator does: make a bundle of a package, and say which devices of a group get it.

`<root>/edge/<group>/` holds the bundles, and `pointer.json`, which is signed as they are: the `stable` bundle of all devices, the
`candidate` that a `share` of them gets first, and the `previous` stable one. Its `serial` rises, so that a device can't be led back to an older one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import JsonValue

from pipelines_lib.connections import Connection
from pipelines_lib.contracts import safe_name
from pipelines_lib.edge.bundle import FORMAT, MANIFEST, MODEL, TRANSFORM, sealed, unsealed
from pipelines_lib.edge.precision import Precision, compared, in_precision
from pipelines_lib.errors import BadInput, ConfigError, Held
from pipelines_lib.features.transform import Arrays
from pipelines_lib.registry.package import Package
from pipelines_lib.store import StorePath, update_json, write_bytes

POINTER = "pointer.json"


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
    }
    content = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    name = f"{safe_name(f'v{version}')}-{precision}-{content[:12]}"
    for file, data in files.items():
        write_bytes(group / name / file, data)
    write_bytes(group / name / MANIFEST, (json.dumps(sealed(manifest, key), indent=1, ensure_ascii=False) + "\n").encode())

    def put(now: dict[str, Any]) -> dict[str, Any]:
        # What was widened meanwhile stays so when the same release is made again.
        if now["stable"] == name or (now["candidate"] == name and share <= now["share"]):
            return now
        if now["stable"] is None or share >= 1:
            return _for_all(now, name)
        return {**now, "candidate": name, "share": share}

    _change(group, key, put)
    return name, figures


def widen(group: StorePath, key: Ed25519PrivateKey, share: float) -> dict[str, Any]:
    """Give the candidate to a share of devices; with 1 it becomes the stable bundle. Raises `BadInput` where there is none."""

    def wider(now: dict[str, Any]) -> dict[str, Any]:
        if now["candidate"] is None:
            raise BadInput(f"{group} has no candidate to widen; release one")
        return _for_all(now, now["candidate"]) if share >= 1 else {**now, "share": share}

    return _change(group, key, wider)


def roll_back(group: StorePath, key: Ed25519PrivateKey) -> dict[str, Any]:
    """Take the candidate away from all devices; where there is none, go back to the previous stable bundle. Raises `BadInput` where there is neither."""

    def back(now: dict[str, Any]) -> dict[str, Any]:
        if now["candidate"] is not None:
            return {**now, "candidate": None, "share": 0.0}
        if now["previous"] is None:
            raise BadInput(f"{group} has nothing to go back to; release another version")
        return {**now, "stable": now["previous"], "previous": None}

    return _change(group, key, back)


def pointer(group: StorePath, key: Ed25519PrivateKey) -> dict[str, Any]:
    """What the group points to. Raises `BadInput` where nothing was released, `DataError` where another key signed it."""
    if not (group / POINTER).exists():
        raise BadInput(f"nothing was released to {group}; `sluice edge release` does it")
    return unsealed((group / POINTER).read_bytes(), key.public_key(), str(group / POINTER))


def _for_all(now: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**now, "stable": name, "previous": now["stable"], "candidate": None, "share": 0.0}


def _change(group: StorePath, key: Ed25519PrivateKey, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    written: dict[str, Any] = {}

    def next_of(found: JsonValue) -> JsonValue:
        now: dict[str, Any] = {"format": 1, "serial": 0, "stable": None, "candidate": None, "previous": None, "share": 0.0}
        if found is not None:
            now = unsealed(json.dumps(found).encode(), key.public_key(), str(group / POINTER))
        changed = change(now)
        written.update(changed if changed == now else {**changed, "serial": now["serial"] + 1})
        return None if changed == now else sealed(written, key)

    update_json(group / POINTER, next_of)
    return written
