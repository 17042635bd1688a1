"""Put the registered version up for verification, beside the champion it may replace.

python -m pipelines_lib.jobs.deploy --spec spec.json
"""

import time

from pipelines_lib.contracts import JobResult, ModelRef
from pipelines_lib.errors import DataError, Held, Unavailable
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.serving import local
from pipelines_lib.serving.pointer import Deployment, read_pointer, write_pointer

TIMEOUT = 60.0
"""Seconds the service may take to open the package."""


def main(stage: Stage) -> JobResult:
    """Put the version up, and say how long that took."""
    started = time.monotonic()
    model = ModelRef.model_validate(stage.result_of("register").outputs["model"])
    service = put_up(stage, model)
    return JobResult(
        stage="deploy",
        reason=f"version {model.version} answers at {service.url}",
        figures={"model_version": model.version, "url": service.url, "seconds_to_serve": round(time.monotonic() - started, 3)},
        outputs={"model": model.model_dump(mode="json"), "url": service.url, "port": service.port},
        links={"Service": service.url},
    )


def put_up(stage: Stage, model: ModelRef) -> local.Service:
    """Point to the version, see that the service runs, wait until it answers with it; changes nothing where it does already.

    Raises `Held` where a newer version serves, `DataError` or `Unavailable` where the version does not come up.
    """
    current = read_pointer(stage.root)
    _refuse_older(stage, model, current)
    if current is None or current.model != model:
        write_pointer(stage.root, Deployment.candidate(model, stage.use_case, current))
    try:
        service = local.ensure(stage.use_case, stage.project, stage.root)
        _wait_for(model, service)
    except BaseException:
        # A version that can't be served must not stay the one that is pointed to.
        roll_back(stage, model)
        raise
    return service


def roll_back(stage: Stage, model: ModelRef) -> int | None:
    """Point to the version that served before the unverified candidate `model`; with none, end the service.

    Leaves a pointer to another version alone: another run put it there. Returns the version that is pointed to.
    """
    current = read_pointer(stage.root)
    if current is not None and current.state == "candidate" and current.model == model:
        current = current.rolled_back()
        write_pointer(stage.root, current)
    if current is None:
        local.stop(stage.use_case.name, stage.project)
        return None
    return current.model.version


def _refuse_older(stage: Stage, model: ModelRef, current: Deployment | None) -> None:
    """An old run that runs again must not take the champion's place."""
    champion = current.champion if current else None
    if champion is None or model.version >= champion.version or stage.spec.params.get("force"):
        return
    raise Held(
        f"version {champion.version} serves, and {model.version} is older; to go back to it, run with the parameter force",
        {"model_version": model.version, "champion_version": champion.version},
    )


def _wait_for(model: ModelRef, service: local.Service) -> None:
    """Until the service answers with `model`. Raises `DataError` where it can't open it, `Unavailable` where it takes too long."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        error = None
        try:
            status, metadata = local.ask(service.port, f"/v2/models/{service.use_case}")
        except OSError as gone:
            status, metadata, error = 0, {}, str(gone)
        if status == 200:
            if metadata["versions"] == [str(model.version)] and metadata["parameters"]["package"] == model.package:
                return
            error = metadata["parameters"]["error"]
        elif status == 503:
            error = metadata["what"]
        # The service looks at the pointer once a second: an error may be about what it pointed to before.
        if error and f"{model.package}" in error:
            raise DataError(f"the service can't serve version {model.version}: {error}")
        if time.monotonic() > deadline:
            raise Unavailable(
                f"the service did not take over version {model.version} within {TIMEOUT:.0f} s: {error or 'no error is known'}"
            )
        time.sleep(0.1)


if __name__ == "__main__":
    run_stage(main)
