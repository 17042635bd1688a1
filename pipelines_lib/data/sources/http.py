"""An HTTP API as a source: its pages are collected first, so that all column names are known, and read back in batches."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa

from pipelines_lib.data.records import Batch, Records, Unreadable
from pipelines_lib.data.sources.api import Answer, Api
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.jsontext import Digits, cell, written
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Http

_BATCH = 50_000
_DEFAULT_PARAM = {"page": "page", "offset": "offset", "cursor": "cursor"}


def open_http(http: Http, context: SourceContext) -> Iterator[Records]:
    """The records of the partition in the order of the API's pages, which must be a stable one. Nothing where the API has none: no
    record, no column names.

    Raises `DataError` where the API refuses or answers something else than was declared; `Unavailable` where it does not answer.
    """
    with Api(http) as api, tempfile.TemporaryFile() as kept:
        names: dict[str, None] = {}
        n_pages = 0
        for records in _pages(http, api, context):
            n_pages += 1
            for record in records:
                row, line = _line(record)
                names |= dict.fromkeys(row)
                kept.write(line + b"\n")
        if kept.tell():
            yield Records("", list(names), _batches(kept, list(names)), {"pages": n_pages})


def _line(record: Any) -> tuple[dict[str, str | None], bytes]:
    """(a record as a row, the JSON that is kept of it); no row where it can't be one, and then [why, how it was written] is kept."""
    if not isinstance(record, dict):
        return {}, json.dumps(["not an object with fields", _shown(record)]).encode()
    row = flat(record)
    try:
        return row, json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and no table can store
        return {}, json.dumps(["holds half a character, which no text can", _shown(record)]).encode()


def _shown(record: Any) -> str:
    """A record that is no row, as JSON; half a character in the way that JSON spells it."""
    return written(record).encode(errors="backslashreplace").decode()


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, str | None]:
    """A JSON object as a row of texts: an object in it gives columns with dots in their names, a list is JSON text, null is null.

    Numbers stay as they are written. Raises `DataError` where two fields would have one name.
    """
    row: dict[str, str | None] = {}
    for key, value in record.items():
        cells = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": cell(value)}
        if both := row.keys() & cells.keys():
            raise DataError(
                f"a record has the field {min(both)!r} twice: once by this name and once as an object in an object; have the source rename it"
            )
        row |= cells
    return row


def _batches(kept: IO[bytes], names: list[str]) -> Iterator[Batch]:
    kept.seek(0)
    number, last = 0, False
    while not last:
        columns: dict[str, list[str | None]] = {name: [] for name in names}
        numbers: list[int] = []
        unreadable: list[Unreadable] = []
        for line in kept:
            number += 1
            if isinstance(row := json.loads(line), dict):
                numbers.append(number)
                for name, cells in columns.items():
                    cells.append(row.get(name))
            else:
                why, text = row
                unreadable.append(Unreadable(number, text, why))
            if number % _BATCH == 0:
                break
        else:
            last = True
        if numbers or unreadable:
            rows = pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()})
            yield Batch(rows, pa.array(numbers, pa.int64()), tuple(unreadable))


def _pages(http: Http, api: Api, context: SourceContext) -> Iterator[list[Any]]:
    url, params = _filled(api.url, context), {name: _filled(cell(value) or "", context) for name, value in http.params.items()}
    pages = http.pages
    params |= {name: str(size) for name, size in pages.size.items()}
    param = pages.param or _DEFAULT_PARAM.get(pages.by, "")
    n_records, seen = 0, set[str]()
    for number in range(pages.at_most):
        if pages.by in ("page", "offset"):
            params[param] = str(pages.start + number if pages.by == "page" else n_records)
        answer = api.get(url, params)
        records = _records(http, answer.body)
        _check_new(http, answer.content if pages.by in ("page", "offset") and records else f"{url} {params}".encode(), seen)
        yield records
        n_records += len(records)
        match pages.by:
            case "none":
                return
            case "page" | "offset":
                if not records:
                    return
            case "link" | "cursor":
                mark = answer.next_link if pages.by == "link" else _mark(http, answer)
                if mark is None:
                    return
                if pages.by == "link" or mark.startswith(("http://", "https://", "/", "?")):
                    url, params = api.own(mark), {}
                else:
                    params[param] = mark
    raise DataError(
        f"source.http.url: has more than {pages.at_most} pages; raise source.http.pages.at_most if that is right, or ask for less"
    )


def _check_new(http: Http, what: bytes, seen: set[str]) -> None:
    """Raises `DataError` where the same page comes, or is asked for, a second time: it would go on for ever."""
    digest = hashlib.sha256(what).hexdigest()
    if digest in seen:
        raise DataError(
            f"source.http: the API gives the same page twice, so it would never end; correct source.http.pages (by: {http.pages.by}) to how it pages"
        )
    seen.add(digest)


def _records(http: Http, body: Any) -> list[Any]:
    found = _at(body, http.records)
    if not isinstance(found, list):
        what = "nothing" if found is None else "a number" if isinstance(found, Digits) else f"a {type(found).__name__}"
        top = f" The answer has the keys {', '.join(sorted(body))}." if isinstance(body, dict) else ""
        where = f"at {http.records!r}" if http.records else "as the answer"
        raise DataError(f"source.http.records: there must be a list {where}, and there is {what}.{top} Correct source.http.records")
    return found


def _mark(http: Http, answer: Answer) -> str | None:
    mark = _at(answer.body, http.pages.next or "")
    none = mark in (None, "", False) or (isinstance(mark, Digits) and float(mark) == 0)
    return None if none else cell(mark)


def _at(body: Any, path: str) -> Any:
    for key in path.split(".") if path else ():
        body = body.get(key) if isinstance(body, dict) else None
    return body


def _filled(text: str, context: SourceContext) -> str:
    for name, moment in (("start", context.start), ("end", context.end)):
        text = text.replace(f"{{{name}}}", f"{moment.isoformat()}Z")
    return context.fill(text)
