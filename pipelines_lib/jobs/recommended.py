"""Recorded users of the hold-out, asked what suits them: a server must name the items that the version itself scores highest. A part of the stage verify."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.contracts import ModelRef
from pipelines_lib.data.tables import Tables
from pipelines_lib.features.arrow import feature_columns
from pipelines_lib.features.values import Distinct
from pipelines_lib.jobs.stage import Stage
from pipelines_lib.registry.package import Package, predicted
from pipelines_lib.serving.replica import Replica

USERS = 20
"""Of the recorded rows, those whose users are asked for."""
K = 10
"""Items asked for."""
_NOT_KNOWN = 503
"""The service lacks the key by which users are known again."""


def users_of(stage: Stage, package: Package) -> list[Any]:
    """Whose the first recorded rows are, as the tables have him; None where nobody is named."""
    assert package.manifest.recommends is not None
    name, wanted = package.manifest.recommends.user.name, package.holdout().row_ids[:USERS]
    ref, tables, found = package.manifest.snapshot, Tables(stage.root), dict.fromkeys(wanted)
    for key in ref.partitions:
        for rows in tables.scan("labelled", key, version=ref.version, columns=["row_id", name]):
            mine = rows.filter(pc.is_in(rows["row_id"], value_set=pa.array(wanted, pa.string())))
            found.update(zip(mine["row_id"].to_pylist(), mine[name].to_pylist(), strict=True))
    return [*found.values()]


def compare(package: Package, users: Sequence[Any], model: ModelRef, replica: Replica) -> dict[str, Any]:
    """Ask for each of `users`, with what else his recorded row says; the figures tell how far the answers are from the version's own ranking."""
    columns, recommends = package.holdout().columns, package.manifest.recommends
    assert recommends is not None
    errors, differences, seconds, unknown = [], [], [], 0
    for place, user in enumerate(users):
        given = {name: values[place] for name, values in columns.items() if name not in recommends.columns}
        asked = {"k": K, "columns": given, "params": {"log": False}}
        started = time.perf_counter()
        status, answer = replica.ask("/recommend", {"user": user, **asked})
        if status == _NOT_KNOWN and user is not None:
            unknown, user = unknown + 1, None  # noqa: PLW2901
            status, answer = replica.ask("/recommend", {"user": None, **asked})
        seconds.append(time.perf_counter() - started)
        if status != 200:
            errors.append(f"status {status}: {answer.get('error')}")
        elif answer["model_version"] != str(model.version):
            errors.append(f"version {answer['model_version']} answered")
        elif error := _wrong_items(package, user, answer):
            errors.append(error)
        else:
            differences.append(_difference(package, user, given, answer))
    return {
        "requests": len(users),
        "users_not_known": unknown,
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "largest_difference": max(differences) if differences else None,
        "milliseconds": round(1000 * float(np.median(seconds)), 3) if seconds else None,
    }


def _wrong_items(package: Package, user: Any, answer: Any) -> str:
    """What is wrong with the items of an answer, whatever their scores; empty where nothing is."""
    choice, places = _choice(package, user), _places(package, answer)
    if len(places) != min(K, len(choice)):
        return f"{len(places)} items, where there are {len(choice)} to choose from"
    return "" if np.isin(places, choice).all() else "an item that the user has met, or that is not the version's"


def _difference(package: Package, user: Any, given: Mapping[str, Any], answer: Any) -> float:
    """How far the answer's scores are from the version's for the same items, and from the version's best.

    Of items that score alike any may come first: so scores are compared, and not names.
    """
    scores, told = _scores(package, given), np.array([item["score"] for item in answer["items"]])
    best = np.sort(scores[_choice(package, user)])[::-1][: len(told)]
    apart = [np.abs(told - wanted) / np.maximum(1.0, np.abs(wanted)) for wanted in (scores[_places(package, answer)], best)]
    return float(np.max(apart, initial=0.0))


def _choice(package: Package, user: Any) -> NDArray[np.int64]:
    """Places of the items that the user has not met."""
    catalogue = package.catalogue
    assert catalogue is not None
    return np.setdiff1d(np.arange(catalogue.items.num_rows), [] if user is None else catalogue.known(user))


def _places(package: Package, answer: Any) -> list[int]:
    """Of the items of an answer; -1 of one that is not in the catalogue."""
    assert package.catalogue is not None
    return [package.catalogue.places.get(item["item"], -1) for item in answer["items"]]


def _scores(package: Package, given: Mapping[str, Any]) -> NDArray[np.float64]:
    """The version's own score of every item of its catalogue for a row that says `given` besides."""
    recommends, catalogue = package.manifest.recommends, package.catalogue
    assert recommends is not None
    assert catalogue is not None
    types = {feature.name: feature.type for feature in package.manifest.features}
    columns = feature_columns(catalogue.items, {name: types[name] for name in recommends.columns})
    n = catalogue.items.num_rows
    columns |= {name: Distinct([value], np.zeros(n, np.int64)) for name, value in given.items()}
    return predicted(package.manifest, package.predict({name: columns[name] for name in types}))[1]
