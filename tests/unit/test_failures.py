"""Which of several failures came first, and what it says."""

import random
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib import failures
from pipelines_lib.contracts import ExitCode
from pipelines_lib.errors import DataError, Held, Interrupted, Unavailable
from pipelines_lib.failures import Failure


def failure(rank=0, kind="error", moment=0.0, code=1, **more):
    return Failure(**{"rank": rank, "host": "a", "moment": moment, "kind": kind, "type": "T", "message": "m", "exit_code": code, **more})


KINDS = st.sampled_from(["error", "bad_input", "held", "hang", "killed", "interrupted", "lost"])


@given(st.lists(st.tuples(KINDS, st.floats(0, 10)), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_first_is_the_earliest_of_those_that_failed_by_themselves(tmp_path_factory, drawn, shuffle: random.Random):
    folder = tmp_path_factory.mktemp("stage")
    all_of_them = [failure(rank, kind, moment) for rank, (kind, moment) in enumerate(drawn)]
    shuffle.shuffle(all_of_them)
    for one in all_of_them:
        failures.leave(folder, one)

    first, *_ = found = failures.left(folder)

    assert {one.rank for one in found} == set(range(len(drawn)))
    by_themselves = [one for one in all_of_them if one.kind not in ("lost", "interrupted")]
    assert first.moment == min(one.moment for one in by_themselves or all_of_them)
    assert (first in by_themselves) == bool(by_themselves)


@pytest.mark.parametrize(("codes", "expected"), [
    ([1, 2], ExitCode.BAD_INPUT), ([75, 3, 1], ExitCode.HELD), ([1, 75], ExitCode.INTERRUPTED), ([1, 1], 9), ([], 9),
])  # fmt: skip
def test_bad_input_of_one_rank_is_bad_input_of_the_stage(codes, expected):
    assert failures.exit_code([failure(rank, code=code) for rank, code in enumerate(codes)], default=9) == expected


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


class DistError(RuntimeError):
    """By name."""


@pytest.mark.parametrize(("error", "kind"), [
    (DataError("bad"), "bad_input"),
    (Held("no"), "held"),
    (Interrupted("asked"), "interrupted"),
    (Unavailable("later"), "error"),
    (ValueError("gloo"), "error"),
    (ConnectionResetError("Connection reset by peer"), "error"),
    (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711"), "lost"),
    (RuntimeError("NCCL communicator was aborted on rank 1."), "lost"),
    (type("DistBackendError", (DistError,), {})("x"), "lost"),
    (failures.of_another_rank(DataError("not finite on another rank")), "lost"),
])  # fmt: skip
def test_a_rank_that_lost_the_others_is_told_from_one_that_failed(error, kind, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    told = failures.of_exception(raised(error), 1)

    assert (told.kind, told.rank) == (kind, 3)
    assert "in raised" in told.traceback


def test_a_thread_that_lost_the_others_has_its_rank_say_so():
    error = RuntimeError("a thread of the parameter server has failed")
    error.__cause__ = RuntimeError("[gloo] Connection closed by peer")

    assert failures.of_exception(raised(error), 1).kind == "lost"


def test_what_caused_an_error_of_ours_is_not_quoted():
    try:
        try:
            int("Zoë")
        except ValueError as error:
            raise DataError("a value of `age` is no number") from error
    except DataError as error:
        told = failures.of_exception(error, 2)

    assert "Zoë" not in told.model_dump_json()
    assert "test_failures.py" in told.traceback


def test_what_is_said_has_the_first_with_its_traceback_and_a_line_for_each_other(tmp_path):
    for one in (
        failure(0, "lost", 1.0, type="RuntimeError", message="gone\nand more"),
        failure(1, "error", 2.0, type="ValueError", message="boom", traceback="  in f\n    x\n", host="b"),
    ):
        failures.leave(tmp_path, one)

    assert failures.text(failures.left(tmp_path)).splitlines() == [
        "first failure: rank 1 on b: ValueError: boom",
        "      in f",
        "        x",
        "then rank 0 on a: RuntimeError: gone …",
    ]


def test_a_later_try_forgets_what_its_ranks_left(tmp_path):
    for rank in range(3):
        failures.leave(tmp_path, failure(rank))
    failures.forget(tmp_path, [1, 7])
    assert [one.rank for one in failures.left(tmp_path)] == [0, 2]
    failures.forget(tmp_path)
    assert failures.left(tmp_path) == []


def test_a_file_of_another_version_is_passed_over(tmp_path):
    failures.leave(tmp_path, failure(1))
    (tmp_path / "failures" / "rank-0.json").write_text('{"rank": 0}')
    (tmp_path / "failures" / "rank-2.json").write_text("{")
    assert [one.rank for one in failures.left(tmp_path)] == [1]


@pytest.mark.parametrize(("code", "says"), [
    (-signal.SIGKILL, "SIGKILL: killed, by the kernel for want of memory"),
    (-signal.SIGSEGV, "SIGSEGV: crashed in native code"),
    (-signal.SIGTERM, "SIGTERM: ended by somebody"),
    (1, "exit code 1: it ended before the stage began"),
])  # fmt: skip
def test_a_rank_that_could_say_nothing_is_spoken_for(code, says):
    assert says in failures.of_end(2, code).sentence
