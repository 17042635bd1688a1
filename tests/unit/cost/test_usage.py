"""What is lost to failed tries, and whose records are found where."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.cost import usage
from pipelines_lib.cost.usage import STALE_SECONDS, Usage, lost_seconds
from pipelines_lib.errors import DataError
from pipelines_lib.store import write_json

NOW = 1_000_000.0


def record(attempt: int = 1, rank: int = 0, seconds: float = 10.0, **more) -> Usage:
    given = {"launch": str(attempt), "started": NOW - seconds, "cpu_seconds": seconds, "memory_gib_seconds": seconds, **more}
    return Usage(attempt=attempt, rank=rank, seconds=seconds, **given)


def test_a_failed_try_is_lost_but_for_what_its_checkpoint_keeps():
    records = [record(1, seconds=30, kept_seconds=20, outcome="failed"), record(2, seconds=15, outcome="done")]

    assert [(used.attempt, seconds) for used, seconds in lost_seconds(records, NOW)] == [(1, 10)]


def test_a_checkpoint_keeps_the_seconds_of_every_rank_of_its_try():
    records = [record(1, rank=0, kept_seconds=8, outcome="failed"), record(1, rank=1, outcome="failed"), record(2, outcome="done")]

    assert [(used.rank, seconds) for used, seconds in lost_seconds(records, NOW)] == [(0, 2), (1, 2)]


def test_a_killed_try_is_known_by_its_silence_or_by_the_next_try():
    killed = record(1, outcome="running")

    assert lost_seconds([killed], NOW) == []
    assert lost_seconds([killed], NOW + STALE_SECONDS + 1) == [(killed, 10)]
    assert lost_seconds([killed, record(2, outcome="running")], NOW) == [(killed, 10)]


@given(
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.integers(0, 3),
            st.floats(0, 1e5),
            st.floats(0, 1e5),
            st.sampled_from(["running", "done", "held", "failed"]),
        )
    )
)
def test_no_more_is_lost_than_was_used(drawn):
    records = [record(attempt, rank, seconds, kept_seconds=kept, outcome=outcome) for attempt, rank, seconds, kept, outcome in drawn]

    for used, seconds in lost_seconds(records, NOW):
        assert 0 <= seconds <= used.seconds
        assert used.outcome not in ("done", "held")


def test_the_records_of_a_run_by_stage_in_the_order_they_began(tmp_path: Path):
    write_json(tmp_path / "train" / "usage" / "1-0.json", record(started=200))
    write_json(tmp_path / "snapshot" / "usage" / "1-0.json", record(started=100))
    write_json(tmp_path / "tune" / "shard-0" / "usage" / "1-0.json", record(started=150))
    write_json(tmp_path / "tune" / "shard-1" / "usage" / "1-0.json", record(started=151))
    (tmp_path / "gate").mkdir()

    found = usage.of_run(tmp_path)

    assert {stage: len(folders) for stage, folders in found.items()} == {"snapshot": 1, "tune": 2, "train": 1}
    assert list(found) == ["snapshot", "tune", "train"]


def test_an_empty_record_is_not_yet_there_and_a_wrong_one_is_named(tmp_path: Path):
    folder = tmp_path / "usage"
    folder.mkdir()
    (folder / "1-0.json").touch()
    assert usage.of_folder(tmp_path) == []

    (folder / "1-0.json").write_text('{"attempt": "many"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"1-0.json is not a record .*delete it"):
        usage.of_folder(tmp_path)
