"""Where the versions of a use case serve: as processes of this machine, or as pods of a cluster.

Users are answered by the champion's servers. A candidate has servers of its own, which nobody is sent to before it is verified there: a
version that crashes or runs out of memory takes nobody's answers along.
"""

import time
from typing import Protocol

from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import ModelRef
from pipelines_lib.errors import DataError, Unavailable
from pipelines_lib.serving import local
from pipelines_lib.serving.replica import Replica
from pipelines_lib.store import StorePath
from pipelines_lib.use_case import UseCase


class Place(Protocol):
    """Where the servers of one use case run. Each follows the use case's pointer by itself. Every method raises `SluiceError`."""

    seconds: float
    """How long a server may take to come and to open its package."""

    def put_up(self, *, candidate: bool) -> str:
        """See that the champion's servers run, or the candidate's; returns their address, under which users ask the champion's."""
        ...

    def replicas(self, *, candidate: bool) -> tuple[list[Replica], str]:
        """The servers that run now, and what is still missing of them; empty where all are there.

        Raises `ConfigError` where waiting is in vain.
        """
        ...

    def admit(self, share: float) -> bool:
        """Send at most this share of the users' requests to the candidate's servers, until they or the users' are put up again.

        False, and nothing is done, where that can't be had by a number of servers; the champion's then ask the candidate's model themselves.
        """
        ...

    def end(self, *, candidate: bool) -> None:
        """End the champion's servers, or the candidate's; done already is done."""
        ...


def place_of(use_case: UseCase, project: Project, profile: Profile, root: StorePath) -> Place:
    """Where the profile has the versions of `use_case`, whose folder in the store is `root`, serve."""
    if profile.launcher == "local":
        return local.Processes(use_case, project, root)
    from pipelines_lib.serving.cluster import Cluster  # noqa: PLC0415 - the serving image has no client of a cluster

    return Cluster(use_case, project, profile, root)


def wait_for(place: Place, model: ModelRef, *, candidate: bool) -> list[Replica]:
    """The servers, once every one of them answers with `model`.

    Raises `DataError` where they can't open it, `Unavailable` where they take too long, and what `place` raises.
    """
    deadline = time.monotonic() + place.seconds
    while True:
        replicas, missing = place.replicas(candidate=candidate)
        # All are asked, also while some are missing: a server that can't open the version never gets ready, and says why.
        late = "; ".join(filter(None, [missing, *(_late(replica, model) for replica in replicas)]))
        if replicas and not late:
            return replicas
        if time.monotonic() > deadline:
            raise Unavailable(
                f"not every server took over version {model.version} within {place.seconds:.0f} s: {late or 'there is no server'}. "
                "Those that did not go on with what they had; try again"
            )
        time.sleep(0.1)


def _late(replica: Replica, model: ModelRef) -> str:
    """Why `replica` does not answer with `model` yet; empty where it does."""
    try:
        status, answer = replica.ask(f"/v2/models/{model.name}", timeout=5)
    except (OSError, ValueError) as gone:
        return f"{replica.host}:{replica.port}: {gone}"
    error = None
    if status == 200:
        if answer["versions"] == [str(model.version)] and answer["parameters"]["package"] == model.package:
            return ""
        error = answer["parameters"]["error"] or f"version {answer['versions'][0]} answers"
    elif status == 503:
        error = answer["what"]
    # A server looks at the pointer once a second: an error may be about what it pointed to before.
    if error and model.package in error:
        raise DataError(f"the service can't serve version {model.version}: {error}")
    return f"{replica.host}:{replica.port}: {error or f'status {status}'}"
