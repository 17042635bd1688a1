"""The stage approved: what a person said stays with the version, and a no holds."""

import pytest

from pipelines_lib.contracts import JobResult
from pipelines_lib.errors import DataError, Held
from pipelines_lib.registry import tracking
from pipelines_lib.store import read_json, write_json

SAID = {"by": "ada", "at": "2026-01-09T08:30:05+00:00", "reason": "the slices"}


@pytest.fixture
def answer(trained):
    """Returns `answer(decision, version=1)`: as the task approve leaves it, after a version was registered."""
    trained.run("evaluate", "gate", "register")

    def leave(decision, version=1):
        figures = {"model_version": version, "decision": decision, **SAID}
        status = "done" if decision == "approved" else "held"
        result = JobResult(stage="approve", status=status, reason=f"version {version} is {decision} by ada", figures=figures)
        write_json(trained.root / "runs" / "training" / "run" / "approve" / "result.json", result)

    return leave


def tags(house):
    return tracking.connect(house.stage("approved").profile.tracking_uri).get_model_version("credit", "1").tags


def test_a_yes_is_kept_with_the_version(trained, answer):
    answer("approved")
    assert trained.run("approved").reason == "version 1 is approved by ada"
    found = tags(trained)
    assert (found["sluice.approval"], found["sluice.approval.by"], found["sluice.approval.at"]) == ("approved", "ada", SAID["at"])


def test_a_no_is_kept_and_holds(trained, answer):
    answer("rejected")
    with pytest.raises(Held, match="version 1 is rejected by ada"):
        trained.run("approved")
    assert (tags(trained)["sluice.approval"], tags(trained)["sluice.approval.reason"]) == ("rejected", "the slices")
    status = read_json(trained.root / "status" / "training.json")
    assert (status["verdict"], status["reason"]) == ("hold", "version 1 is rejected by ada")


def test_an_answer_about_another_version_is_none(trained, answer):
    answer("approved", version=7)
    with pytest.raises(DataError, match="the answer is about version 7, and this run has registered version 1; clear `approve`"):
        trained.run("approved")
