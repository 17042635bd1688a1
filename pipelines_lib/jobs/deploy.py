"""Put the registered version up for verification, beside the champion it may replace. Users are not sent to it.

python -m pipelines_lib.jobs.deploy --spec spec.json
"""

import time
from collections.abc import Mapping
from typing import NoReturn

from pydantic import JsonValue

from pipelines_lib.contracts import JobResult, ModelRef
from pipelines_lib.errors import Held
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.serving.place import Place, place_of, wait_for
from pipelines_lib.serving.pointer import Deployment, read_pointer, write_pointer
from pipelines_lib.serving.replica import Replica


def main(stage: Stage) -> JobResult:
    """Put the version up, and say how long that took."""
    started = time.monotonic()
    model = ModelRef.model_validate(stage.result_of("register").outputs["model"])
    _end_rollout(stage, model)
    url, _ = put_up(stage, model)
    current = read_pointer(stage.root)
    users = current.champion if current else None
    return JobResult(
        stage="deploy",
        reason=f"version {model.version} is up for verification; users of {url} are answered by {f'version {users.version}' if users else 'none'}",
        figures={"model_version": model.version, "url": url, "seconds_to_serve": round(time.monotonic() - started, 3)},
        outputs={"model": model.model_dump(mode="json"), "url": url},
        links={"Service": url},
    )


def put_up(stage: Stage, model: ModelRef) -> tuple[str, list[Replica]]:
    """Point to the version as the candidate, and wait until a server of its own answers with it; changes nothing where one does already.

    Returns the address of the users' service, and the candidate's servers. Raises `Held` where a newer version serves, and what
    `wait_for` and the place raise where the version does not come up.
    """
    current = read_pointer(stage.root)
    _refuse_older(stage, model, current)
    if current is None or current.model != model:
        write_pointer(stage.root, Deployment.candidate(model, stage.use_case, current))
    try:
        place = place_of_stage(stage)
        url = place.put_up(candidate=False)
        place.put_up(candidate=True)
        return url, wait_for(place, model, candidate=True)
    except BaseException:
        # A version that can't be served must not stay the one that is pointed to.
        roll_back(stage, model)
        raise


def roll_back(stage: Stage, model: ModelRef) -> int | None:
    """Point to the version that served before the unverified candidate `model`, and end the candidate's servers; with none, the service too.

    Leaves a pointer to another version alone: another run put it there. Returns the version that is pointed to.
    """
    current = read_pointer(stage.root)
    if current is not None and current.state == "candidate" and current.model == model:
        current = current.rolled_back()
        write_pointer(stage.root, current)
    place = place_of_stage(stage)
    if current is None or current.state == "serving":
        place.end(candidate=True)
    if current is None:
        place.end(candidate=False)
        return None
    return current.model.version


def refuse(stage: Stage, model: ModelRef, why: str, figures: Mapping[str, JsonValue]) -> NoReturn:
    """Roll back and raise `Held`, which says why."""
    before = roll_back(stage, model)
    now = f"version {before} serves again" if before is not None else "nothing serves"
    raise Held(
        f"version {model.version} is not promoted: {why}; {now}", {**figures, "model_version": model.version, "serving_version": before}
    )


def place_of_stage(stage: Stage) -> Place:
    """Where the use case's versions serve."""
    return place_of(stage.use_case, stage.project, stage.profile, stage.root)


def _end_rollout(stage: Stage, model: ModelRef) -> None:
    """Of a verification of this version that was killed, and not tried again, a roll-out may be left; that of another ends with its pointer."""
    current = read_pointer(stage.root)
    if current is not None and current.model == model and current.traffic is not None:
        write_pointer(stage.root, current.meeting(None))


def _refuse_older(stage: Stage, model: ModelRef, current: Deployment | None) -> None:
    """An old run that runs again must not take the champion's place."""
    champion = current.champion if current else None
    if champion is None or model.version >= champion.version or stage.spec.params.get("force"):
        return
    raise Held(
        f"version {champion.version} serves, and {model.version} is older; to go back to it, run with the parameter force",
        {"model_version": model.version, "champion_version": champion.version},
    )


if __name__ == "__main__":
    run_stage(main)
