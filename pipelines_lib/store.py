"""The object store: small JSON documents and artefacts beside the Delta tables.

In the spine a store is a folder. Every write lands whole: a reader sees the old file or the new one.
"""

import json
import os
import secrets
from pathlib import Path

from pydantic import BaseModel, JsonValue

from pipelines_lib.errors import DataError


def read_json(path: str | Path) -> JsonValue:
    """The document at `path`. Raises `FileNotFoundError`, or `DataError` where it is not JSON."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        document: JsonValue = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}). Delete the file and run the stage again.") from error
    return document


def write_json(path: str | Path, document: JsonValue | BaseModel) -> None:
    """Write `document` whole, keys sorted, so that equal documents are equal bytes."""
    value = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` whole: to a file beside the target, then renamed over it."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` whole; leaves the file alone (and its time stamp) when it already holds these bytes."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.stat().st_size == len(data) and target.read_bytes() == data:
        return
    temporary = new_file(target.parent, f".{target.name}.")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def new_file(folder: Path, prefix: str, suffix: str = "") -> Path:
    """An empty file of a name that no other has. Who may read it follows from the process's umask, as of any file: a store may be private."""
    path = folder / f"{prefix}{secrets.token_hex(8)}{suffix}"
    path.touch(0o666, exist_ok=False)
    return path
