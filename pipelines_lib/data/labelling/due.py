"""Which partitions are to be labelled: those that are closed, and whose labels are older than what they are made from.

What a partition was labelled from is kept beside the tables, as the contents of the partitions that were read; so whatever
order partitions run in, and whichever come late, again or at the same time, each ends up with the labels that follow from the
tables as they stand. A run looks again after it has written, until nothing is due any more: of two runs at once the one that
writes last has then seen what the other wrote.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from pipelines_lib.data.tables import Layer, Tables
from pipelines_lib.store import StorePath, read_json, write_json
from pipelines_lib.use_case import UseCase

Done = Literal["collected", "prepared"]
"""`collected`: the partition's ground truth was read; `prepared`: its rows were cleaned. Both may have left no rows at all."""

Inputs = dict[str, str]
"""`<layer>/<partition>` to the content of what a partition's labels are made from, and of the labels themselves."""

_READ: tuple[Layer, ...] = ("clean", "ground_truth", "reviews", "labelled")


class Marks:
    """What was done for which partition, where the tables alone don't tell."""

    def __init__(self, root: StorePath) -> None:
        self._root = root / "marks"

    def add(self, done: Done, partition_key: str, settings: str = "") -> None:
        """Say that it was done, under these settings (a hash of them, where they matter)."""
        write_json(self._root / done / f"{partition_key}.json", {"settings": settings})

    def of(self, done: Done) -> set[str]:
        """The partitions it was done for."""
        return {path.stem for path in (self._root / done).glob("*.json")}

    def labelled_from(self, partition_key: str) -> Inputs | None:
        """What the partition's labels were made from; None where it has never been labelled."""
        return cast("Inputs | None", self._read("labelled", partition_key).get("inputs"))

    def set_labelled_from(self, partition_key: str, inputs: Inputs, settings: str | None = None) -> None:
        """Keep it, and the settings that the labels were made under; those of before, when None."""
        settings = self._read("labelled", partition_key).get("settings", "") if settings is None else settings
        write_json(self._root / "labelled" / f"{partition_key}.json", {"inputs": {**inputs}, "settings": settings})

    def settings_of(self, partition_key: str) -> set[str]:
        """The settings that the partition was cleaned and labelled under: one hash, or two; none where nobody wrote them down."""
        return {read for done in ("prepared", "labelled") if (read := self._read(done, partition_key).get("settings"))}

    def _read(self, done: str, partition_key: str) -> dict[str, Any]:
        path = self._root / done / f"{partition_key}.json"
        try:
            return cast("dict[str, Any]", read_json(path))
        except FileNotFoundError:
            return {}


@dataclass(frozen=True)
class Seen:
    """The tables and marks at one moment."""

    versions: Mapping[Layer, int | None]
    contents: Mapping[Layer, Mapping[str, str]]
    collected: set[str]
    prepared: set[str]

    @classmethod
    def now(cls, tables: Tables, marks: Marks) -> "Seen":
        """As they stand. The marks are read first: what they speak of is in the tables then."""
        collected, prepared = marks.of("collected"), marks.of("prepared")
        looked = {layer: tables.contents(layer) for layer in _READ}
        return cls(
            versions={layer: version for layer, (version, _) in looked.items()},
            contents={layer: contents for layer, (_, contents) in looked.items()},
            collected=collected,
            prepared=prepared | set(looked["clean"][1]),
        )

    def version(self, layer: Layer) -> int:
        """The version of a table that is there."""
        version = self.versions[layer]
        assert version is not None, f"there is no table {layer}"
        return version


def window(use_case: UseCase, partition_key: str, length: int) -> list[str]:
    """The partition and the `length` after it."""
    return [use_case.shift(partition_key, ahead) for ahead in range(length + 1)]


def missing(use_case: UseCase, partition_key: str, seen: Seen) -> list[str]:
    """The partitions that must come before this one can be labelled; none where it is closed.

    A window of events has no gaps, and ground truth was collected to the end of the horizon. Otherwise the horizon is a
    time alone: any later partition shows that it has passed.
    """
    horizon, label = use_case.horizon, use_case.label
    if label.event_within is not None:
        return [key for key in window(use_case, partition_key, horizon) if key not in seen.prepared]
    if label.join is not None:
        return [key for key in window(use_case, partition_key, horizon) if key not in seen.collected]
    end = use_case.shift(partition_key, horizon)
    return [] if end <= max(seen.prepared, default="") else [end]


def inputs(use_case: UseCase, partition_key: str, seen: Seen) -> Inputs:
    """What the partition's labels are made from."""
    label = use_case.label
    rows = window(use_case, partition_key, use_case.horizon if label.event_within is not None else 0)
    truths = window(use_case, partition_key, use_case.reach) if label.join is not None else []
    reads: list[tuple[Layer, list[str]]] = [
        ("clean", rows),
        ("ground_truth", truths),
        ("reviews", [partition_key] if label.review is not None else []),
        ("labelled", [partition_key]),
    ]
    return {f"{layer}/{key}": content for layer, keys in reads for key in keys if (content := seen.contents[layer].get(key)) is not None}


def due(use_case: UseCase, partition_key: str, seen: Seen, marks: Marks) -> list[str]:
    """The partitions whose labels are not those that follow from the tables, oldest first.

    Where nothing that comes later changes a label, a run looks after its own partition alone.
    """
    candidates = seen.prepared if use_case.reach else {partition_key} & seen.prepared
    return sorted(key for key in candidates if not missing(use_case, key, seen) and marks.labelled_from(key) != inputs(use_case, key, seen))


def new_truths(before: Inputs | None, now: Inputs) -> list[str] | None:
    """The partitions whose ground truth is all that is new since `before`; None where something else differs."""
    if before is None or any(now.get(name) != content for name, content in before.items()):
        return None
    added = [name.partition("/") for name in now.keys() - before.keys()]
    return sorted(key for _, _, key in added) if all(layer == "ground_truth" for layer, _, _ in added) else None
