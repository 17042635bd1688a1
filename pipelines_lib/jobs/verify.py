"""Ask the candidate's server the recorded hold-out rows, let users' requests meet it where that is asked for; promote the version, or roll back.

python -m pipelines_lib.jobs.verify --spec spec.json

However this fails, no candidate is left serving; only a process that is killed can leave one, until the stage runs again.
"""

import logging
import time
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
from pydantic import JsonValue

from pipelines_lib.contracts import JobResult, ModelRef
from pipelines_lib.errors import Held, Unavailable
from pipelines_lib.jobs import recommended
from pipelines_lib.jobs.deploy import place_of_stage, put_up, refuse, roll_back
from pipelines_lib.jobs.rollout import roll_out
from pipelines_lib.jobs.stage import Stage, Work, held_result, run_stage
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.registry.package import Holdout, Package
from pipelines_lib.registry.tracking import connect
from pipelines_lib.serving.place import wait_for
from pipelines_lib.serving.pointer import package_folder, read_pointer, write_pointer
from pipelines_lib.serving.replica import Replica
from pipelines_lib.serving.requests import DATATYPES
from pipelines_lib.store import write_json

log = logging.getLogger("sluice")

SINGLE_ROWS = 20
"""Rows asked one by one, for the latency a client sees."""
COMPARISONS = 3
"""How often the version is compared with a champion that came meanwhile, at most."""


def main(stage: Stage) -> JobResult:
    """Compare, then promote or roll back."""
    deployed = stage.result_of("deploy").outputs
    model = ModelRef.model_validate(deployed["model"])
    try:
        _meet_champion(stage, model)
    except BaseException:
        roll_back(stage, model)
        raise
    # Where an earlier try rolled back, the version must first be put up again.
    url, [replica, *_] = put_up(stage, model)
    try:
        package = Package.open(package_folder(stage.root, model))
        figures = _compare(package, model, replica)
        _hold_if_wrong(stage, model, figures)
        figures["milliseconds_single_row_champion"] = _champions_milliseconds(stage, package, model)
        if package.manifest.recommends is not None:
            figures["recommend"] = recommended.compare(package, recommended.users_of(stage, package), model, replica)
            _hold_if_wrong(stage, model, figures)
        _hold_if_overtaken(stage, model)
        if rollout := roll_out(stage, model):
            figures |= rollout
            _hold_if_overtaken(stage, model)
        _promote(stage, model)
    except Held:
        raise
    except BaseException:
        roll_back(stage, model)
        raise
    _hand_over(stage, model)
    status: dict[str, JsonValue] = {
        "model_version": model.version,
        "url": url,
        "metrics": dict(package.manifest.metrics),
        "run_id": stage.spec.run_id,
        "partition_key": stage.spec.partition_key,
        "mlflow_run_id": model.run_id,
    }
    write_json(stage.root / "status" / "deployment.json", status)
    return JobResult(
        stage="verify",
        reason=f"version {model.version} answers as it was evaluated (difference {figures['largest_difference']:.2g}), {_fared(rollout)}and is the champion",
        figures=figures,
        outputs={"model": model.model_dump(mode="json"), "url": url},
        links={"Service": url},
    )


def _fared(rollout: dict[str, Any]) -> str:
    """What came of a roll-out, in words."""
    if not rollout:
        return ""
    found = rollout["rollout"]
    return f"failed on {found['challenger']['errors']} of {found['challenger']['requests']} requests of its {found['mode']} "


def _compare(package: Package, model: ModelRef, replica: Replica) -> dict[str, Any]:
    """Ask all recorded rows at once, then some one by one; the figures say how far the answers are from the evaluation's."""
    holdout = package.holdout()
    expected = np.array(holdout.scores)
    n = len(holdout.row_ids)

    def ask(first: int, last: int) -> tuple[np.ndarray[Any, np.dtype[np.float64]] | None, str]:
        status, answer = replica.ask(f"/v2/models/{model.name}/infer", _asked(package, holdout, first, last))
        if status != 200:
            return None, f"status {status}: {answer.get('error')}"
        if answer["model_version"] != str(model.version):
            return None, f"version {answer['model_version']} answered"
        scores = next(output for output in answer["outputs"] if output["name"] == "scores")
        return np.array(scores["data"]).reshape(scores["shape"]), ""

    errors, differences, seconds = [], [], []
    for first, last in [(0, n), *((row, row + 1) for row in range(min(SINGLE_ROWS, n)))]:
        started = time.perf_counter()
        scores, error = ask(first, last)
        seconds.append(time.perf_counter() - started)
        if scores is None:
            errors.append(error)
        else:
            wanted = expected[first:last]
            # Of large values (a price) the tolerance is a share, of small ones (a probability) a difference.
            differences.append(float(np.max(np.abs(scores - wanted) / np.maximum(1.0, np.abs(wanted)))))
    return {
        "rows": n,
        "requests": len(seconds),
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "largest_difference": max(differences) if differences else None,
        "milliseconds_single_row": round(1000 * float(np.median(seconds[1:] or seconds)), 3),
    }


def _champions_milliseconds(stage: Stage, package: Package, model: ModelRef) -> float | None:
    """What the users' server takes for the same recorded rows, one by one; None where nobody else serves, or asks for other columns."""
    replicas, _ = place_of_stage(stage).replicas(candidate=False)
    current = read_pointer(stage.root)
    if not replicas or current is None or current.champion in (None, model):
        return None
    holdout, seconds = package.holdout(), []
    for row in range(min(SINGLE_ROWS, len(holdout.row_ids))):
        started = time.perf_counter()
        status, _ = replicas[0].ask(f"/v2/models/{model.name}/infer", _asked(package, holdout, row, row + 1))
        seconds.append(time.perf_counter() - started)
        if status != 200:
            return None
    return round(1000 * float(np.median(seconds)), 3)


def _asked(package: Package, holdout: Holdout, first: int, last: int) -> dict[str, Any]:
    """The recorded rows from `first` to before `last`, as a request that is not logged."""
    inputs = [
        {
            "name": feature.name,
            "shape": [last - first],
            "datatype": DATATYPES[feature.type][0],
            "data": list(holdout.columns[feature.name][first:last]),
        }
        for feature in package.manifest.features
    ]
    return {"inputs": inputs, "parameters": {"log": False}}


def _hold_if_wrong(stage: Stage, model: ModelRef, figures: dict[str, Any]) -> None:
    """Roll back and raise `Held` where an answer failed or is not the evaluation's, or a recommendation is not what the version scores highest."""
    tolerance = stage.use_case.deployment.tolerance
    told = [("requests", "its answers differ from the evaluation's", figures)]
    if "recommend" in figures:
        told.append(("requests to /recommend", "its recommendations differ from its own scores", figures["recommend"]))
    for requests, differs, found in told:
        if found["errors"]:
            refuse(stage, model, f"{found['errors']} of {found['requests']} {requests} failed ({found['first_error']})", figures)
        if not found["largest_difference"] <= tolerance:  # NaN is no match either
            refuse(stage, model, f"{differs} by {found['largest_difference']:.3g}, more than {tolerance:g} (deployment.tolerance)", figures)


def _meet_champion(stage: Stage, model: ModelRef) -> None:
    """Compare with the champion of now where that is not the one that the gate compared with. Raises `Held` where the gate says no.

    Of two trainings at once the first to end becomes champion. What a person approved is not compared by itself: the approval was of other figures.
    """
    for _ in range(COMPARISONS):
        champion = _overtaken_by(stage, model)
        if champion is None or champion.version > model.version or stage.use_case.deployment.approve is not None:
            return
        log.warning(
            "version %d became the champion while this training ran; version %d is compared with it", champion.version, model.version
        )
        for name in ("evaluate", "gate", "register"):
            _run_again(stage, name)


def _run_again(stage: Stage, name: str) -> None:
    """An earlier stage of this run, in this process; its new result takes the place of the old one."""
    work: Work = import_module(f"pipelines_lib.jobs.{name}").main
    before = stage.result_of(name)
    kept = {"seconds": before.seconds, "usage": before.usage, "launch": before.launch}
    again = replace(stage, spec=stage.spec.model_copy(update={"stage": name}))
    try:
        write_json(again.folder / "result.json", work(again).model_copy(update=kept))
    except Held as held:
        write_json(again.folder / "result.json", held_result(name, held).model_copy(update=kept))
        raise


def _overtaken_by(stage: Stage, model: ModelRef) -> ModelRef | None:
    """The champion of now, where it is neither the one that the gate compared with nor the version itself; None too where the run forces its way."""
    champion = ModelRegistry(connect(stage.profile.tracking_uri), model.name).champion()
    compared = stage.result_of("evaluate").outputs.get("champion")
    if champion is None or champion.version in (compared, model.version) or stage.spec.params.get("force"):
        return None
    return champion


def _hold_if_overtaken(stage: Stage, model: ModelRef) -> None:
    """Roll back and raise `Held` where the champion of now is still not the one that the gate compared with."""
    champion = _overtaken_by(stage, model)
    if champion is None:
        return
    compared = stage.result_of("evaluate").outputs.get("champion")
    roll_back(stage, model)
    remedy = (
        "clear `evaluate` and what follows it in this run, and it is compared again"
        if model.version > champion.version
        else "start the training again, and its model is compared with the champion of now"
    )
    raise Held(
        f"version {model.version} is not promoted: version {champion.version} became the champion while this training ran, and the gate compared with "
        f"{'none' if compared is None else f'version {compared}'}; {remedy}",
        {"model_version": model.version, "compared_with": compared, "champion_version": champion.version},
    )


def _promote(stage: Stage, model: ModelRef) -> None:
    """In the registry, then for the users. Raises `Unavailable` where another run has put its own version up meanwhile: a champion that nobody is answered by."""
    current = read_pointer(stage.root)
    if current is None or current.model != model:
        now = "nothing" if current is None else f"version {current.model.version}"
        raise Unavailable(
            f"{now} was put up while version {model.version} was verified; once that has ended a retry puts this one up again"
        )
    ModelRegistry(connect(stage.profile.tracking_uri), model.name).promote(model.version)
    write_pointer(stage.root, current.verified())


def _hand_over(stage: Stage, model: ModelRef) -> None:
    """Wait until every server of the users answers with the new champion, then end the candidate's.

    Raises `Unavailable` where one does not come round: the version stays the champion, and a retry waits again.
    """
    place = place_of_stage(stage)
    wait_for(place, model, candidate=False)
    place.end(candidate=True)


if __name__ == "__main__":
    run_stage(main)
