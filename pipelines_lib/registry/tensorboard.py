"""TensorBoard's event files, written from a training's journal. The package `tensorboard` need not be installed otherwise."""

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from pipelines_lib.registry.journal import Journal, Status


class EventFiles:
    """The event file of one training below `folder`. A resumed training writes it anew, so that no step is there twice."""

    def __init__(self, folder: Path) -> None:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventFileWriter(str(folder))
        self._written: set[tuple[str, int]] = set()

    def take(self, journal: Journal) -> None:
        """Write what is new, so that a reader sees it."""
        for line in journal.lines:
            new = {name: value for name, value in line.values.items() if (name, line.step) not in self._written}
            if new:
                values = [Summary.Value(tag=name, simple_value=value) for name, value in new.items()]
                self._writer.add_event(Event(wall_time=line.moment, step=line.step, summary=Summary(value=values)))
                self._written.update((name, line.step) for name in new)
        self._writer.flush()

    def end(self, journal: Journal, status: Status) -> None:  # noqa: ARG002 - the files do not say how it ended
        """Write the rest."""
        self.take(journal)
        self._writer.close()
