"""A device's answers to rows of JSON or CSV: one each, or what is wrong with the row."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from pipelines_lib.edge.bundle import Bundle
from pipelines_lib.features.row_steps import read_numbers

_BATCH = 256


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
                yield (
                    reader.line_num,
                    f"{len(row)} values under a header of {len(header)}; give each column one, and quote those that hold a comma",
                )
            else:
                yield reader.line_num, {name: value or None for name, value in zip(header, row, strict=True)}
    except csv.Error as error:
        yield reader.line_num, f"not CSV ({error}); what follows was not read. Mend the quotes there, and predict again"
