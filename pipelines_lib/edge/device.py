"""What a device does: pull the bundle that is meant for it, verify it, answer rows. Without the store it goes on with what it has.

<folder>/<bundle>/      bundles that were verified: the one in use and the one before
<folder>/.pulling/      what a pull has fetched so far; the next one goes on from there
<folder>/current.json   which is in use; replaced whole, last
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines_lib.edge.bundle import MANIFEST, MODEL, TRANSFORM, Bundle, unsealed, within
from pipelines_lib.errors import BadInput, DataError, Unavailable
from pipelines_lib.features.row_steps import read_numbers

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CURRENT, PULLING = "current.json", ".pulling"
TIMEOUT = 30.0
"""Seconds a store may take to answer."""
_NAME = re.compile(r"[A-Za-z0-9._-]*[A-Za-z0-9]")
_BATCH = 1024


def pull(source: str, folder: Path, device: str, key: Ed25519PublicKey) -> dict[str, Any]:
    """Bring what the group at `source` (a folder, or an https:// address) has for `device`; returns what is in use.

    Raises `Unavailable` or `DataError`, and then what was in use stays in use.
    """
    now = current(folder)
    pointer = unsealed(_fetch(source, "pointer.json"), key, f"{source}/pointer.json")
    if pointer["serial"] < now["serial"]:
        raise DataError(
            f"{source}/pointer.json has serial {pointer['serial']}, and this device has seen {now['serial']}; it is not followed back"
        )
    candidate = pointer["candidate"]
    name = candidate if candidate is not None and within(device, candidate, pointer["share"]) else pointer["stable"]
    if name == now["refused"]:
        name = now["bundle"] or name
    _bring(source, folder, name, key)
    if name != now["bundle"]:
        now = {**now, "bundle": name, "previous": now["bundle"]}
    return _use(folder, {**now, "serial": pointer["serial"]})


def roll_back(folder: Path) -> dict[str, Any]:
    """Use the bundle before; the one in use now is not taken again. Raises `BadInput` where there is none."""
    now = current(folder)
    if now["previous"] is None:
        raise BadInput(f"{folder} holds no earlier bundle; pull another one")
    return _use(folder, {**now, "bundle": now["previous"], "previous": None, "refused": now["bundle"]})


def current(folder: Path) -> dict[str, Any]:
    """What is in use: `bundle`, `previous` and `refused` are names or None; `serial` is the newest pointer that was followed."""
    path = folder / CURRENT
    empty: dict[str, Any] = {"bundle": None, "previous": None, "refused": None, "serial": 0}
    return {**empty, **json.loads(path.read_bytes())} if path.exists() else empty


def opened(folder: Path, key: Ed25519PublicKey) -> Bundle:
    """The bundle in use, every byte verified. Raises `BadInput` where none was pulled, `DataError` where it was changed."""
    name = current(folder)["bundle"]
    if name is None:
        raise BadInput(f"{folder} holds no bundle; pull one")
    return _open(folder / name, key)


def answers(bundle: Bundle, lines: Iterable[str], *, as_csv: bool) -> Iterator[dict[str, Any]]:
    """One answer a row: `prediction` and `scores`, or an `error` that says which line, which feature and why."""
    rows = _csv_rows(lines) if as_csv else _json_rows(lines)
    while batch := list(islice(rows, _BATCH)):
        checked = [(line, row, _problem(bundle, line, row)) for line, row in batch]
        good = [row for _, row, problem in checked if problem is None]
        columns = {name: [row[name] for row in good] for name in bundle.manifest["features"]}
        said = iter(_said(bundle, columns) if good else [])
        for line, _, problem in checked:
            if problem is None:
                prediction, of_row = next(said)
                yield {"line": line, "prediction": prediction, "scores": of_row}
            else:
                yield {"line": line, "error": problem}


def _said(bundle: Bundle, columns: Mapping[str, list[Any]]) -> list[tuple[Any, list[float]]]:
    """Prediction and scores of each row."""
    scores = bundle.predict(columns)
    return list(zip(bundle.decision.of(scores)[0], scores.tolist(), strict=True))


def _problem(bundle: Bundle, line: int, row: Any) -> str | None:
    if isinstance(row, str):
        return f"line {line}: {row}"
    for name, kind in bundle.manifest["features"].items():
        if name not in row:
            return f"line {line}: feature {name!r} is absent; give it, or null where the value is missing"
        value = row[name]
        if value is None:
            continue
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            return f"line {line}, {name}: {json.dumps(value)[:80]} is no UTF-8 text; write the rows in UTF-8"
        if isinstance(value, list | dict):
            return f"line {line}, {name}: {json.dumps(value)[:80]} is no single value; give one text, number or boolean, or null where it is missing"
        if kind in {"integer", "number", "boolean"} and math.isnan(read_numbers(kind, [value])[0]):
            return f"line {line}, {name}: {json.dumps(value)[:80]} can't be read as {kind}; correct it, or give null where it is missing"
    return None


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = f"not JSON ({error}); write one JSON object a line, or name --csv"
        yield number, row if isinstance(row, dict | str) else "a row is a JSON object, feature to value"


def _csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        for row in reader:
            if len(row) != len(header):
                yield reader.line_num, f"{len(row)} values under a header of {len(header)}"
            else:
                yield reader.line_num, {name: value or None for name, value in zip(header, row, strict=True)}
    except csv.Error as error:
        yield reader.line_num, f"not CSV ({error}); what follows was not read"


def _bring(source: str, folder: Path, name: str, key: Ed25519PublicKey) -> None:
    """Fetch and verify the bundle `name`, then give it its place; what is there already and right is not fetched again."""
    if not _NAME.fullmatch(name):
        raise DataError(f"{source}/pointer.json names a bundle {name!r}, which is no name; release it again")
    target = folder / name
    if target.is_dir():
        try:
            _open(target, key)
        except DataError:
            shutil.rmtree(target)
        else:
            return
    pulling = folder / PULLING / name
    pulling.mkdir(parents=True, exist_ok=True)
    sealed = _fetch(source, f"{name}/{MANIFEST}")
    manifest = unsealed(sealed, key, f"{source}/{name}/{MANIFEST}")
    (pulling / MANIFEST).write_bytes(sealed)
    for file in (MODEL, TRANSFORM):
        path = pulling / file
        if not path.exists() or sha256(path.read_bytes()).hexdigest() != manifest["files"][file]:
            path.write_bytes(_fetch(source, f"{name}/{file}"))
    _open(pulling, key)
    os.replace(pulling, target)
    shutil.rmtree(folder / PULLING)


def _open(folder: Path, key: Ed25519PublicKey) -> Bundle:
    try:
        files = {name: (folder / name).read_bytes() for name in (MANIFEST, MODEL, TRANSFORM)}
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is absent; pull the bundle again") from error
    return Bundle.open(files, key, str(folder))


def _use(folder: Path, now: dict[str, Any]) -> dict[str, Any]:
    """Write down what is in use, whole, and forget bundles that are neither in use nor the one before."""
    temporary = folder / f".{CURRENT}"
    temporary.write_text(json.dumps(now), encoding="utf-8")
    os.replace(temporary, folder / CURRENT)
    for old in folder.iterdir():
        if (old / MANIFEST).is_file() and old.name not in (now["bundle"], now["previous"]):
            shutil.rmtree(old)
    return now


def _fetch(source: str, name: str) -> bytes:
    """The file `name` below `source`. Raises `Unavailable` where the store can't be reached or has no such file."""
    address = f"{source.rstrip('/')}/{name}"
    try:
        if not source.startswith("https://"):
            return Path(address).read_bytes()
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:  # noqa: S310 - https alone
            data: bytes = answer.read()
            return data
    except (OSError, urllib.error.URLError) as error:
        raise Unavailable(f"{address} can't be read ({error}); what is in use stays in use, pull again later") from error
