"""The checkpoints that are there: which is the newest good one, which ones stay, and what is removed."""

import logging
import re
from collections.abc import Collection

from pipelines_lib.training.checkpoints.files import Place
from pipelines_lib.training.checkpoints.format import MANIFEST, Damaged, Manifest
from pipelines_lib.training.checkpoints.storage import checked, folder_of, names_of

log = logging.getLogger("sluice")


class Steps:
    """The checkpoints at `place`, each known by its step. `fingerprint` says of which training; another's are no good."""

    def __init__(self, place: Place, fingerprint: str) -> None:
        self._place = place
        self._fingerprint = fingerprint
        self._trusted: set[int] = set()
        """Those whose parts this process has written, or has read and found good."""

    def name(self, step: int) -> str:
        """As a person finds it."""
        return f"{self._place}/{folder_of(step)}"

    def manifest(self, step: int) -> Manifest:
        """What the checkpoint of `step` holds. Raises `Damaged` where it is none of ours, or where parts are not of their size."""
        try:
            with self._place.opened(f"{folder_of(step)}/{MANIFEST}") as path:
                manifest = Manifest.from_bytes(path.read_bytes())
        except FileNotFoundError:
            raise Damaged("it has no manifest, so it was never finished") from None
        if manifest.fingerprint != self._fingerprint:
            raise Damaged("it belongs to another snapshot or other training settings")
        if manifest.step != step:
            raise Damaged(f"its manifest is that of step {manifest.step}")
        sizes = names_of(self._place.files(), step)
        for name, part in manifest.parts.items():
            if name not in sizes:
                raise Damaged(f"{name} is missing")
            if sizes[name] != part.size:
                raise Damaged(f"{name} has {sizes[name]:,} bytes of {part.size:,}")
        return manifest

    def damage(self, manifest: Manifest, rank: int = 0, size: int = 1) -> str | None:
        """What is wrong with the contents of the parts, of which each of `size` ranks looks at its share."""
        try:
            for name in sorted(manifest.parts)[rank::size]:
                with checked(self._place, manifest, name):
                    pass
        except Damaged as problem:
            return str(problem)
        return None

    def trust(self, step: int) -> None:
        """Remember that the parts of `step` are good."""
        self._trusted.add(step)

    def newest(self) -> int | None:
        """The newest with a good manifest and all its parts; their contents are not looked at. What is newer is dropped."""
        for step in reversed(self._all()):
            try:
                self.manifest(step)
            except Damaged as problem:
                self.drop(step, str(problem))
            else:
                return step
        return None

    def drop(self, step: int, problem: str) -> None:
        """Remove the checkpoint of `step` with a warning that says why."""
        log.warning("checkpoint %s is skipped and removed: %s", self.name(step), problem)
        self._remove(step)

    def retain(self, keep: int) -> None:
        """Keep the newest `keep` good ones, and remove the rest. Those that this process doesn't know are read, once."""
        kept = 0
        for step in reversed(self._all()):
            if kept == keep:
                self._remove(step)
            elif (problem := self._problem(step)) is not None:
                self.drop(step, problem)
            else:
                kept += 1

    def clean(self, step: int, parts: Collection[str]) -> None:
        """Remove what lies in the folder of `step` beside its manifest and `parts`: those of another attempt. Without parts, all of it."""
        needed = {MANIFEST, *parts} if parts else set()
        self._place.remove([f"{folder_of(step)}/{name}" for name in names_of(self._place.files(), step) if name not in needed])

    def parts(self, step: int) -> list[str]:
        """Those of the checkpoint of `step`; none where it is not complete."""
        try:
            return list(self.manifest(step).parts)
        except Damaged:
            return []

    def _problem(self, step: int) -> str | None:
        if step in self._trusted:
            return None
        try:
            problem = self.damage(self.manifest(step))
        except Damaged as damaged:
            problem = str(damaged)
        if problem is None:
            self.trust(step)
        return problem

    def _remove(self, step: int) -> None:
        # The manifest goes first: what is half removed must not look complete.
        names = sorted(names_of(self._place.files(), step), key=lambda name: name != MANIFEST)
        self._place.remove([f"{folder_of(step)}/{name}" for name in names])
        self._trusted.discard(step)

    def _all(self) -> list[int]:
        found = (re.match(r"step-(\d+)/", name) for name in self._place.files())
        return sorted({int(match[1]) for match in found if match})
