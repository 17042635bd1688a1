"""What a device does: pull the bundle that is meant for it, verify it, go back. Without the store it goes on with what it has.

<folder>/<bundle>/           bundles that were verified: the one in use and the one before
<folder>/.pulling/           what a pull has fetched so far, for the next one to go on from; and what is to be removed
<folder>/current.json        which is in use, replaced whole once everything else is on the disk; current.copy.json is for when it is damaged

Whenever the power goes, the bundle before or the new one is in use, whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines_lib.edge.bundle import MANIFEST, MODEL, POINTER, TRANSFORM, Bundle, manifest_of, pointer_of
from pipelines_lib.edge.rollout import meant_for
from pipelines_lib.edge.source import fetch
from pipelines_lib.errors import BadInput, DataError, Unavailable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CURRENT, COPY, PULLING = "current.json", "current.copy.json", ".pulling"
SIGNED_BYTES, FILE_BYTES = 4 << 20, 1 << 30
"""What a pointer or a manifest may have, and a file whose manifest does not say."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_EMPTY: dict[str, Any] = {"bundle": None, "previous": None, "refused": None, "group": None, "serial": 0}


def pull(source: str, folder: Path, device: str, keys: Sequence[Ed25519PublicKey]) -> dict[str, Any]:
    """Bring what the group at `source` (a folder, or an https:// address) has for `device`; returns what is in use.

    `keys` are trusted, the newest first. Raises `Unavailable` or `BadInput`, and then what was in use stays in use.
    """
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        now = current(folder)
        pointer = pointer_of(fetch(source, POINTER, SIGNED_BYTES), keys, f"{source}/{POINTER}")
        _require_newer(source, pointer, now)
        name = meant_for(device, pointer)
        if name == now["refused"]:
            name = now["bundle"] or name
        _bring(source, folder, name, keys)
        if name != now["bundle"]:
            now = {**now, "bundle": name, "previous": now["bundle"]}
        return _use(folder, {**now, "serial": pointer["serial"], "group": pointer.get("group", now["group"])})


def roll_back(folder: Path) -> dict[str, Any]:
    """Use the bundle before; the one in use now is not taken again. Raises `BadInput` where there is none."""
    now = current(folder)
    if now["previous"] is None:
        raise BadInput(f"{folder} holds no earlier bundle; pull another one")
    with _disk(folder):
        return _use(folder, {**now, "bundle": now["previous"], "previous": None, "refused": now["bundle"]})


def current(folder: Path) -> dict[str, Any]:
    """What is in use: `bundle`, `previous` and `refused` are names or None; `serial` is the newest pointer that was followed, of `group`.

    Raises `DataError` where both places that say so are damaged.
    """
    there = [path for path in (folder / CURRENT, folder / COPY) if path.exists()]
    for path in there:
        with suppress(ValueError, TypeError, OSError):  # the copy is read then
            found = {**_EMPTY, **json.loads(path.read_bytes())}
            names = [found[key] for key in ("bundle", "previous", "refused")]
            if isinstance(found["serial"], int) and all(name is None or _NAME.fullmatch(name) for name in names):
                return found
    if there:
        raise DataError(
            f"{' and '.join(map(str, there))} are damaged, so that nobody can say which bundle is in use; remove them and pull. "
            "This device then follows any pointer that is signed with the key, an older one too"
        )
    return dict(_EMPTY)


def opened(folder: Path, keys: Sequence[Ed25519PublicKey]) -> Bundle:
    """The bundle in use, every byte verified. Raises `BadInput` where none was pulled, `DataError` where it was changed."""
    name = current(folder)["bundle"]
    if name is None:
        raise BadInput(f"{folder} holds no bundle; pull one")
    return _open(folder / name, keys)


def _require_newer(source: str, pointer: dict[str, Any], now: dict[str, Any]) -> None:
    group = pointer.get("group")
    if None not in (group, now["group"]) and group != now["group"]:
        raise DataError(
            f"{source}/{POINTER} is of the group {group}, and this folder follows {now['group']}; a device that changes its group takes another --folder"
        )
    if pointer["serial"] < now["serial"]:
        raise DataError(
            f"{source}/{POINTER} has serial {pointer['serial']}, and this device has seen {now['serial']}: an older one that was put back, which is not followed. "
            "Where the store was restored from a copy, each `sluice edge release`, `widen` or `rollback` makes a newer one"
        )


def _bring(source: str, folder: Path, name: str, keys: Sequence[Ed25519PublicKey]) -> None:
    """Fetch and verify the bundle `name`, then give it its place; what is there already and right is not fetched again."""
    if not _NAME.fullmatch(name):
        raise DataError(f"{source}/{POINTER} names a bundle {name!r}, which is no name; release it again")
    target, pulling = folder / name, folder / PULLING / name
    place = target if target.is_dir() else pulling
    if place is pulling:
        _remove(other for other in (folder / PULLING).glob("*") if other != pulling)
        pulling.mkdir(parents=True, exist_ok=True)
    manifest = _manifest(source, place, keys)
    for file in (MODEL, TRANSFORM):
        if not _is(place / file, manifest["files"][file]):
            data = fetch(source, f"{name}/{file}", manifest.get("sizes", {}).get(file, FILE_BYTES))
            if sha256(data).hexdigest() != manifest["files"][file]:
                raise DataError(f"{source}/{name}/{file} is not what the manifest says; what is in use stays in use. Release it again")
            _write(place / file, data)
    _open(place, keys)
    if place is pulling:
        os.replace(pulling, target)
        _sync(folder)


def _manifest(source: str, place: Path, keys: Sequence[Ed25519PublicKey]) -> dict[str, Any]:
    """The one there is, if it is signed with the newest key; else the store's, which may be by now."""
    path = place / MANIFEST
    if path.exists():
        with suppress(DataError):  # the store's is asked for then
            return manifest_of(path.read_bytes(), keys[:1], str(path), place.name)
    sealed = fetch(source, f"{place.name}/{MANIFEST}", SIGNED_BYTES)
    manifest = manifest_of(sealed, keys, f"{source}/{place.name}/{MANIFEST}", place.name)
    _write(path, sealed)
    return manifest


def _open(folder: Path, keys: Sequence[Ed25519PublicKey]) -> Bundle:
    try:
        files = {name: (folder / name).read_bytes() for name in (MANIFEST, MODEL, TRANSFORM)}
    except OSError as error:
        raise DataError(f"{error.filename} can't be read ({error.strerror or error}); pull the bundle again") from error
    return Bundle.open(files, keys, folder)


def _use(folder: Path, now: dict[str, Any]) -> dict[str, Any]:
    """Write down what is in use, and forget bundles that are neither in use nor the one before."""
    for name in (CURRENT, COPY):
        _write(folder / name, json.dumps(now).encode())
    (folder / PULLING).mkdir(exist_ok=True)
    for old in list(folder.iterdir()):
        if (old / MANIFEST).is_file() and old.name not in (now["bundle"], now["previous"]):
            os.replace(old, folder / PULLING / old.name)  # so that what is half removed when the power goes is no bundle
    shutil.rmtree(folder / PULLING)
    return now


def _remove(folders: Iterator[Path]) -> None:
    for each in folders:
        shutil.rmtree(each)


def _is(path: Path, hash_: str) -> bool:
    return path.is_file() and sha256(path.read_bytes()).hexdigest() == hash_


def _write(path: Path, data: bytes) -> None:
    """Whole, and on the disk: the file is the one before until then."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Names are on the disk. Windows has no way to ask for that."""
    if os.name == "posix":
        here = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(here)
        finally:
            os.close(here)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Say of a disk that fails what is left to do."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{error.filename or folder} can't be written ({error.strerror or error}); see that the disk has room and the folder may be written. "
            "What is in use stays in use, and a pull goes on where this one ended"
        ) from error
