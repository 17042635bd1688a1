"""What a process uses, written down in a bucket: each beat is a request, and trouble costs the record alone."""

import time

import pytest

from pipelines_lib.cost import meter as meters
from pipelines_lib.cost.meter import Meter
from pipelines_lib.cost.usage import of_folder

pytestmark = pytest.mark.usefixtures("impatient")


def test_beats_reach_the_bucket(bucket, monkeypatch):
    monkeypatch.setattr(meters, "_BEAT_SECONDS_OF_A_BUCKET", 0.05)
    with Meter(bucket / "train") as meter:
        [first] = of_folder(bucket / "train")
        deadline = time.monotonic() + 20
        while of_folder(bucket / "train")[0].seconds == first.seconds and time.monotonic() < deadline:
            time.sleep(0.02)
        assert of_folder(bucket / "train")[0].seconds > first.seconds
        meter.ends("done")
    [record] = of_folder(bucket / "train")
    assert (record.attempt, record.outcome) == (1, "done")


def test_a_claim_whose_answer_was_lost_is_not_made_twice(bucket, troubled, troubled_bucket):
    troubled.fail("lost", methods="PUT", path="usage/1-0")
    with Meter(troubled_bucket / "train") as meter:
        meter.ends("done")
    assert [(record.attempt, record.outcome) for record in of_folder(bucket / "train")] == [(1, "done")]


def test_a_record_that_can_not_be_written_ends_nothing(bucket, troubled, troubled_bucket, caplog):
    troubled.fail("answer", methods="PUT", times=10_000, status=503, code="SlowDown")
    with Meter(troubled_bucket / "train") as meter:
        meter.beat()
        meter.ends("done")
    assert "so what this process uses may go uncounted" in caplog.text
    assert of_folder(bucket / "train") == []
