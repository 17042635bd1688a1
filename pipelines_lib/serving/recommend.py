"""Recommendations: of the items that a user has not met, those with the highest scores.

A request brings what is known of the user and of the circumstances, the package what is known of the items. A score is the one that
`/invocations` gives to the same row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.features.arrow import feature_columns
from pipelines_lib.features.values import Distinct
from pipelines_lib.registry.catalogue import Catalogue
from pipelines_lib.registry.package import Recommends
from pipelines_lib.serving.rows import (
    Options,
    RequestError,
    Rows,
    as_id,
    as_list,
    checked,
    checked_column,
    kind_of,
    read_options,
    refuse,
    short,
)
from pipelines_lib.serving.slot import Served

MAX_K = 1_000
"""Items that one request may ask for."""
_PIECE = 1 << 14
"""Items scored at once; bounds the memory of a request."""
_NAMES = ("user", "k", "columns", "items", "exclude", "known", "params")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a request asks for, checked."""

    k: int
    given: dict[str, list[Any]]
    """Features and keys that the request brings: one value for all items, or one for each of `places`."""
    places: NDArray[np.int64]
    """Of the items to choose from, in the catalogue."""
    without: NDArray[np.int64]
    """Places of the items that must not be chosen."""
    n_met: int
    """Items that the user is known to have met; 0 for a user whom nobody knows."""
    ignored: list[str]
    options: Options


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An answer: items and the rows that the model was asked for them, best first."""

    n_candidates: int
    items: list[Any]
    scores: NDArray[np.float32]
    """[n, C]"""
    rows: Rows


def of_package(served: Served) -> tuple[Recommends, Catalogue]:
    """What the served version recommends. Raises `RequestError` with status 404 where that is nothing."""
    recommends, catalogue = served.package.manifest.recommends, served.package.catalogue
    if recommends is None or catalogue is None:
        raise RequestError(
            f"version {served.version} recommends nothing",
            where="path",
            rule="a version recommends where the use case names its items (`deployment.recommend`), and was trained since",
            remedy="Ask /invocations for the scores of rows, or set that and train",
            status=404,
        )
    return recommends, catalogue


def read_recommendation(document: Mapping[str, Any], served: Served) -> Wanted:
    """What a request asks for. Raises `RequestError`."""
    recommends, catalogue = of_package(served)
    if unknown := sorted(document.keys() - {*_NAMES}):
        refuse(f"found {short(unknown)}", "body", f"a recommendation is asked for with {', '.join(_NAMES)}", "Correct the name")
    k, known, params = document.get("k", 10), document.get("known", False), document.get("params")
    if type(k) is not int or not 1 <= k <= MAX_K:
        refuse(f"found {kind_of(k)}", "k", f"1 to {MAX_K} items are recommended", "Correct it, or leave it out for 10")
    if not isinstance(known, bool):
        refuse(f"found {kind_of(known)}", "known", "true or false: whether items that the user has met may be chosen too", "Correct it")
    request_id = as_id(params.get("id"), "params.id") if isinstance(params, dict) else None
    options = read_options(params, "params", served.shape, request_id=request_id)
    places = _asked_for(document["items"], recommends, catalogue, served) if "items" in document else None
    given, ignored = _given(document.get("columns", {}), served, recommends, None if places is None else len(places))
    user, given = _protected(_user(document, recommends, served), given, served, recommends)
    met = np.empty(0, np.int64) if user is None else catalogue.known(user)
    named = [_name(item, "exclude", recommends) for item in as_list(document.get("exclude", []), "exclude")]
    exclude = np.array([catalogue.places[item] for item in named if item in catalogue.places], np.int64)
    return Wanted(
        k=k,
        given=given,
        places=np.arange(catalogue.items.num_rows) if places is None else places,
        without=exclude if known else np.concatenate([exclude, met]),
        n_met=len(met),
        ignored=ignored,
        options=options,
    )


def choose(wanted: Wanted, served: Served) -> Chosen:
    """The `k` items with the highest scores, or all there are; of equal scores the item first that training saw first. Raises `RequestError`."""
    recommends, catalogue = of_package(served)
    asked = np.flatnonzero(~np.isin(wanted.places, wanted.without))
    starts = range(0, max(1, len(asked)), _PIECE)
    scores = np.concatenate([_scored(asked[start : start + _PIECE], wanted, served) for start in starts])
    order = np.argsort(-scores[:, served.package.manifest.positive_index or 0], kind="stable")[: wanted.k]
    best = asked[order]
    items = catalogue.items.take(wanted.places[best])
    named = items["item"].to_pylist()
    columns: dict[str, list[Any]] = {name: _plain(items[name].to_pylist()) for name in recommends.columns}
    for name, values in wanted.given.items():
        columns[name] = values * len(best) if len(values) == 1 else [values[place] for place in best]
    columns[recommends.item.name] = named
    shape = served.shape
    rows = Rows(
        n=len(best),
        columns={name: columns[name] for name in shape.features},
        keys={name: columns[name] for name in shape.keys if name in columns},
        ignored=wanted.ignored,
        options=wanted.options,
    )
    return Chosen(n_candidates=len(asked), items=named, scores=scores[order], rows=rows)


def _scored(asked: NDArray[np.int64], wanted: Wanted, served: Served) -> NDArray[np.float32]:
    """Scores [n, C] of the items at these places of `wanted.places`."""
    recommends, catalogue = of_package(served)
    types = served.shape.features
    columns = feature_columns(catalogue.items.take(wanted.places[asked]), {name: types[name] for name in recommends.columns})
    for name in wanted.given.keys() & types.keys():
        values = wanted.given[name]
        columns[name] = Distinct(values, np.zeros(len(asked), np.int64)) if len(values) == 1 else [values[place] for place in asked]
    return served.scores(columns)


def _user(document: Mapping[str, Any], recommends: Recommends, served: Served) -> Any:
    name = recommends.user.name
    if "user" not in document:
        refuse("lacks user", "body", f"a user is a value of {name!r}, or null for somebody without one", "Send it")
    user = checked(document["user"], recommends.user.type, name, 0, told=name not in served.shape.private)
    return user.strip() or None if isinstance(user, str) else user


def _asked_for(items: Any, recommends: Recommends, catalogue: Catalogue, served: Served) -> NDArray[np.int64]:
    """Places of the items that a request names."""
    named = [_name(item, "items", recommends) for item in as_list(items, "items")]
    if not named or len(set(named)) < len(named):
        refuse(
            "no item, or one twice", "items", "the items to choose from are named once each", "Correct it, or leave it out for all items"
        )
    if absent := [item for item in named if item not in catalogue.places]:
        rule = f"version {served.version} knows the items of its training rows, until {served.package.manifest.snapshot.partitions[-1]}"
        refuse(f"unknown: {short(absent[:5])}", "items", rule, "Leave them out; /invocations answers rows of new items")
    return np.array([catalogue.places[item] for item in named], np.int64)


def _name(item: Any, where: str, recommends: Recommends) -> Any:
    wanted = int if recommends.item.type == "integer" else str
    if type(item) is not wanted:
        refuse(f"found {kind_of(item)}", where, f"an item is a value of {recommends.item.name!r}, {recommends.item.type}", "Correct it")
    return item


def _given(columns: Any, served: Served, recommends: Recommends, n_items: int | None) -> tuple[dict[str, list[Any]], list[str]]:
    """The columns that a request brings, and the names of those that nobody knows."""
    if not isinstance(columns, dict):
        refuse(f"found {kind_of(columns)}", "columns", "an object of column and value", 'Send {"columns": {column: value, …}}')
    shape = served.shape
    known = {name: kind for name, kind in shape.known.items() if name != recommends.item.name}
    if absent := [name for name in shape.features if name not in columns and name not in recommends.columns]:
        rule = f"a request brings what the catalogue does not have, which is {', '.join(recommends.columns)} of each item"
        refuse(f"lacks {', '.join(absent)}", "columns", rule, "Send every other column, with null where a value is missing")
    given = {}
    for name, value in columns.items():
        if name not in known:
            continue
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and len(value) != n_items:
            what = f"{len(value)} values for {'all' if n_items is None else n_items} items"
            refuse(
                what, f"columns.{name}", "a column is one value, or a list with one for each of `items`", "Correct it, or name the items"
            )
        given[name] = checked_column(values, known[name], name, told=name not in shape.private)
        if name in shape.required and None in given[name]:
            refuse("found null", f"columns.{name}", "the use case declares the column not nullable", "Send a value")
    return given, sorted(columns.keys() - known.keys())


def _protected(user: Any, given: dict[str, list[Any]], served: Served, recommends: Recommends) -> tuple[Any, dict[str, list[Any]]]:
    """User and columns as the tables have them. Raises `RequestError` with status 503 where the user can't be known again."""
    features = served.shape.features.keys()
    name, keys = recommends.user.name, {name: values for name, values in given.items() if name not in features}
    rows = served.guard.protected(
        Rows(
            n=1,
            columns={name: values for name, values in given.items() if name in features},
            keys={**keys, name: [user]},
            ignored=[],
            options=Options(),
        )
    )
    if user is not None and name not in rows.keys:
        raise RequestError(
            f"it can't tell what the user has met: {served.guard.problem}",
            where="user",
            rule=f"the tables hold hashes of {name!r}",
            remedy='Send "user": null to have nothing left out',
            status=503,
        )
    [found] = rows.keys.pop(name, [None])
    return found, {**rows.columns, **rows.keys}


def _plain(values: list[Any]) -> list[Any]:
    """NaN is a missing number."""
    return [None if value != value else value for value in values]  # noqa: PLR0124
