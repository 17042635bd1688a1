"""The model a server answers with. It follows the pointer: a new version is opened beside the old and takes its place in one step.

A package that can't be opened, or does not answer, never gets there: the old one goes on, and the error is shown.
"""

import logging
import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.decision import Decision
from pipelines_lib.errors import DataError, SluiceError
from pipelines_lib.features.values import Column
from pipelines_lib.registry.package import Package
from pipelines_lib.s3 import Stat
from pipelines_lib.serving.guard import Guard
from pipelines_lib.serving.pointer import Deployment, package_folder, pointer_path, read_pointer
from pipelines_lib.serving.prediction_log import logged_types
from pipelines_lib.serving.rollout import Rollout
from pipelines_lib.serving.rows import RequestError, Shape
from pipelines_lib.store import StorePath
from pipelines_lib.use_case import ColumnType

log = logging.getLogger("sluice.serving")


@dataclass(frozen=True)
class Served:
    """A deployment and its opened package: what one request is answered with, from its first byte to its last."""

    deployment: Deployment
    package: Package
    shape: Shape
    guard: Guard

    def scores(self, columns: Mapping[str, Column]) -> NDArray[np.float32]:
        """What the model says of rows [n, C]. Raises `RequestError` where it says what no number is."""
        scores = self.package.predict(columns)
        if not np.logical_and.reduce(np.isfinite(scores), axis=None):  # `all` takes twice as long for a row
            raise RequestError(
                "a score that is no number",
                where=f"version {self.version}",
                rule="a model's scores are finite",
                remedy="Deploy an earlier version; these rows make this one fail",
                status=500,
            )
        return scores

    @property
    def version(self) -> int:
        """The model's version."""
        return self.deployment.model.version

    @cached_property
    def decision(self) -> Decision:
        """How the scores are read."""
        return self.package.manifest.decision

    @cached_property
    def logged(self) -> dict[str, ColumnType]:
        """Types of the columns that the prediction log holds of a request."""
        return logged_types(self.shape.features, self.shape.keys)


class Slot:
    """Holds what is served now, None where nothing is. Reading `served` is safe from any thread.

    What is still to be verified is served only with `candidate`: by a server that no user is sent to, except during a roll-out by pods.
    """

    def __init__(self, root: StorePath, poll_seconds: float = 1.0, home: Path | None = None, *, candidate: bool = False) -> None:
        self._root = root
        self._candidate = candidate
        self._home = home
        self._poll_seconds = poll_seconds
        self._seen: Hashable = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="pointer", daemon=True)
        self.served: Served | None = None
        self.rollout: Rollout[Served] | None = None
        """This server's part in the roll-out under way."""
        self.error: str | None = None
        """Why the version the pointer names is not the one that is served."""

    def start(self) -> None:
        """Open what the pointer names, then follow it."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.rollout is not None:
            self.rollout.close()

    def look(self) -> None:
        """Take over what the pointer names, if it changed since the last look."""
        try:
            mark = _mark(pointer_path(self._root))
            if mark == self._seen:
                return
            # What stands in the way may pass while the pointer stays: it is looked at again until it was taken over.
            self._seen = None
            deployment = read_pointer(self._root)
            self._take(deployment if deployment is None or self._candidate else deployment.served)
            self._take_part(deployment)
            self.error = None
            self._seen = mark
        except DataError as error:
            # Looking again at the same bytes can't help; the next deployment may.
            self._seen = mark
            self._report(error)
        except (OSError, SluiceError) as error:
            self._seen = None
            self._report(error)

    def _take(self, deployment: Deployment | None) -> None:
        before = self.served
        if deployment is None:
            self.served = None
        elif before is not None and before.deployment.model == deployment.model:
            self.served = self._serving(deployment, before.package)
        else:
            # What was tried out beside the champion need not be opened again.
            beside = self.rollout.challenger if self.rollout is not None else None
            known = beside is not None and beside.deployment.model == deployment.model
            self.served = self._serving(deployment, beside.package if beside is not None and known else self._opened(deployment))
        if (before and before.version) != (self.served and self.served.version):
            log.warning("version %s takes over from %s", self.served and self.served.version, before and before.version)

    def _take_part(self, deployment: Deployment | None) -> None:
        """Begin or end a roll-out. A challenger that can't be opened here is said to be so, and the champion answers all."""
        before = self.rollout
        traffic = deployment.traffic if deployment else None
        if deployment is None or traffic is None:
            self.rollout = None
        elif before is not None and (before.version, before.traffic) == (deployment.model.version, traffic):
            return
        else:
            challenger, error = None, None
            if not traffic.pods and not self._candidate:
                try:
                    challenger = self._serving(deployment, self._opened(deployment))
                except DataError as refused:
                    error = str(refused)
            self.rollout = Rollout(deployment.model.version, traffic, challenger, error=error, candidate=self._candidate)
            log.warning("version %d meets a share of %g of the requests (%s)", self.rollout.version, traffic.share, traffic.mode)
        if before is not None:
            before.close()

    def _opened(self, deployment: Deployment) -> Package:
        package = Package.open(package_folder(self._root, deployment.model))
        _try_out(package)
        return package

    def _serving(self, deployment: Deployment, package: Package) -> Served:
        guard = Guard.of(deployment, self._root, self._home)
        if guard.problem is not None:
            log.error("columns %s are not logged: %s", ", ".join(guard.unlogged), guard.problem)
        shape = _shape(deployment, package)
        # A candidate is asked recorded rows, which were answered when it was evaluated.
        if deployment.refuse_unknown and not self._candidate:
            shape = replace(shape, words={part.name: frozenset(part.words) for part in package.transform.categorical})
        return Served(deployment, package, shape, guard)

    def _report(self, error: Exception) -> None:
        if str(error) == self.error:
            return  # said once until it changes, however often it is looked at
        self.error = str(error)
        log.error("version %s goes on serving: %s", self.served and self.served.version, error)

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.look()
            except Exception as error:  # the thread must outlive what nobody foresaw, and say so
                log.exception("could not follow the pointer")
                self.error = f"{type(error).__name__}: {error}"


def _mark(path: StorePath) -> Hashable:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0, 0)
    if isinstance(status, Stat):
        return status.etag
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _shape(deployment: Deployment, package: Package) -> Shape:
    features = {feature.name: feature.type for feature in package.manifest.features}
    keys = {name: kind for name, kind in deployment.keys.items() if name not in features}
    required = tuple(name for name in deployment.required if name in features)
    return Shape(features, keys, required, deployment.key_format, frozenset(deployment.private))


def _try_out(package: Package) -> None:
    """One answer before the first request: a graph that does not run is found here, and its memory is laid out."""
    columns = {feature.name: [None] for feature in package.manifest.features}
    expected = (1, len(package.manifest.classes) or 1)
    try:
        found = package.predict(columns).shape
    except DataError:
        raise
    except Exception as error:  # onnxruntime's own errors share no base class but Exception
        raise DataError(f"{package.folder}: the model does not answer ({error}); deploy an earlier version, or train again") from error
    if found != expected:
        raise DataError(f"{package.folder}: the model's scores have shape {found}, the manifest says {expected}; train again")
