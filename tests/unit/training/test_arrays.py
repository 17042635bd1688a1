"""Arrays on disk: written once for all processes of a machine, mapped by each, whole or not there."""

import datetime as dt
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines_lib.errors import DataError, Held, Unavailable
from pipelines_lib.training import arrays
from pipelines_lib.training.arrays import ArrayWriter, discarded_after, mapped, shared

MINUTE = dt.timedelta(minutes=1)


@given(
    st.sampled_from(["float32", "int64", "int8"]).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6))
    ),
    st.lists(st.integers(0, 6), max_size=3),
)
def test_what_is_written_in_pieces_is_mapped_whole(tmp_path_factory, array, cuts):
    path = tmp_path_factory.mktemp("array") / "x.npy"
    with ArrayWriter(path, len(array)) as writer:
        for piece in np.split(array, sorted(min(cut, len(array)) for cut in cuts)):
            writer.add(piece)
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), array)
    found = mapped(path)
    assert found.dtype == torch.from_numpy(array).dtype
    np.testing.assert_array_equal(found.numpy(), array)


def test_an_array_that_is_too_short_or_goes_on_otherwise_is_our_mistake(tmp_path):
    with pytest.raises(AssertionError, match="1 of 2 rows"), ArrayWriter(tmp_path / "x.npy", 2) as writer:
        writer.add(np.zeros(1))
    with ArrayWriter(tmp_path / "y.npy", 2) as writer:
        writer.add(np.zeros((1, 2)))
        with pytest.raises(AssertionError, match="goes on as"):
            writer.add(np.zeros((1, 3)))
        writer.add(np.zeros((1, 2)))


def write(text):
    """Returns a writer of one small file, and the list of its calls."""
    calls = []

    def fill(folder, beat):
        calls.append(folder)
        beat()
        (folder / "x.txt").write_text(text)

    return fill, calls


def test_arrays_are_written_once_and_again_where_they_are_not_whole(tmp_path):
    fill, calls = write("abc")
    at = shared(tmp_path / "arrays", "key", fill, MINUTE)
    assert (at / "x.txt").read_text() == "abc"
    assert shared(tmp_path / "arrays", "key", fill, MINUTE) == at
    assert len(calls) == 1
    for damage in (lambda: (at / "x.txt").write_text("ab"), (at / "x.txt").unlink, lambda: (at / "manifest.json").write_text("")):
        damage()
        shared(tmp_path / "arrays", "key", fill, MINUTE)
        assert (at / "x.txt").read_text() == "abc"
    assert len(calls) == 4
    # Those of other rows, or of a try that was killed, are not kept beside them.
    (tmp_path / "arrays" / ".killed").mkdir()
    other = shared(tmp_path / "arrays", "other", fill, MINUTE)
    assert sorted(path.name for path in other.parent.iterdir()) == ["beat", "other"]


def test_a_try_that_fails_leaves_nothing(tmp_path):
    def fill(folder, beat):
        (folder / "x.txt").write_text("abc")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        shared(tmp_path / "arrays", "key", fill, MINUTE)
    assert list(tmp_path.iterdir()) == []


def test_other_processes_wait_until_the_arrays_are_whole(tmp_path, monkeypatch):
    go_on, fill = threading.Event(), write("abc")[0]

    def slowly(folder, beat):
        fill(folder, beat)
        assert go_on.wait(10)

    first = threading.Thread(target=shared, args=(tmp_path / "arrays", "key", slowly, MINUTE))
    first.start()
    while not list(tmp_path.glob("arrays/.*/x.txt")):
        time.sleep(0.01)
    monkeypatch.setenv("LOCAL_RANK", "1")
    threading.Timer(0.2, go_on.set).start()
    at = shared(tmp_path / "arrays", "key", None, MINUTE)
    assert go_on.is_set()
    assert (at / "x.txt").read_text() == "abc"
    first.join()


class Clock:
    """Time that passes where somebody sleeps; `then` is done each time."""

    def __init__(self, then):
        self.now, self.then = 0.0, then

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.then(self.now)


def test_who_waits_waits_as_long_as_the_first_process_gets_on(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    target, limit = tmp_path / "arrays" / "key", dt.timedelta(seconds=50)

    def first(now):
        """Gets on every 40 seconds, and is done after 200."""
        target.mkdir(parents=True, exist_ok=True)
        (target.parent / "beat").write_text(str(now // 40))
        if now > 200:
            (target / "manifest.json").write_text("{}")

    monkeypatch.setattr(arrays, "_SECONDS_BETWEEN_LOOKS", 5)
    monkeypatch.setattr(arrays, "time", Clock(first))
    assert shared(target.parent, "key", None, limit) == target
    monkeypatch.setattr(arrays, "time", clock := Clock(lambda _: None))
    with pytest.raises(Unavailable, match=r"has not got on for 50 s.*raise training.timeout"):
        shared(target.parent, "never", None, limit)
    assert 50 < clock.now <= 55


@pytest.mark.parametrize(
    ("error", "kept"), [(DataError("bad"), False), (Held("no"), False), (Unavailable("later"), True), (ValueError("x"), True)]
)
def test_arrays_are_kept_for_another_try_alone(tmp_path, error, kept):
    folder = shared(tmp_path / "arrays", "key", write("abc")[0], MINUTE).parent
    with pytest.raises(type(error)), discarded_after(folder):
        raise error
    assert folder.exists() == kept
    with discarded_after(folder):
        pass
    assert not folder.exists()


def test_another_process_than_the_first_removes_nothing(tmp_path, monkeypatch):
    folder = shared(tmp_path / "arrays", "key", write("abc")[0], MINUTE).parent
    monkeypatch.setenv("LOCAL_RANK", "1")
    with discarded_after(folder):
        pass
    assert folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what of a process's memory is mapped")
def test_mapping_takes_no_memory_of_its_own(tmp_path):
    path = tmp_path / "x.npy"
    with ArrayWriter(path, 1 << 17) as writer:
        for _ in range(1 << 7):
            writer.add(np.ones((1 << 10, 64), np.float32))

    def anonymous():
        """KiB of this process's memory that is no file's."""
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1])

    before = anonymous()
    found = mapped(path)
    assert float(found.sum()) == 1 << 23
    assert anonymous() - before < 8_000  # of 32 MiB
