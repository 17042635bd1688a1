"""The queue of the parameter server: every piece once, nobody staler than allowed, nobody stuck."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.training.parameter_server import Queue


def nothing():
    pass


@given(st.data(), st.integers(1, 6), st.integers(0, 4))
def test_in_whatever_order_workers_come_none_is_stuck_and_no_gradient_is_staler_than_allowed(data, n_workers, slack):
    staleness = n_workers - 1 + slack
    queue, at_work, done = Queue(staleness), {}, []
    tickets = [(step, piece) for step in range(4) for piece in range(n_workers)]
    queue.fill(tickets)
    left = len(tickets)
    while left or at_work:
        idle = [worker for worker in range(n_workers) if worker not in at_work] if left else []
        free = [worker for worker, ticket in at_work.items() if queue._may_apply(ticket)]
        assert idle or free, "all workers wait for each other"
        worker = data.draw(st.sampled_from(idle + free))
        if worker in at_work:
            ticket = at_work.pop(worker)
            queue.bring(ticket, lambda: True)
            done.append(ticket)
        else:
            at_work[worker] = queue.fetch(nothing)
            left -= 1
    assert sorted(done) == tickets
    assert queue.version == len(tickets)
    assert queue.stalest <= staleness
    assert queue.fetch(nothing) is None


def test_a_fast_worker_waits_for_the_slow_one_at_the_bound():
    queue = Queue(1)
    queue.fill([(0, 0), (0, 1), (1, 0)])
    slow, fast = queue.fetch(nothing), queue.fetch(nothing)
    queue.bring(fast, lambda: True)
    fast = queue.fetch(nothing)
    brought = threading.Event()
    thread = threading.Thread(target=lambda: (queue.bring(fast, lambda: True), brought.set()))
    thread.start()
    time.sleep(0.05)
    assert not brought.is_set()
    queue.bring(slow, lambda: True)
    thread.join()
    assert queue.stalest == 1


def test_a_gradient_that_is_not_used_makes_no_version():
    queue = Queue(0)
    queue.fill([(0, 0)])
    queue.bring(queue.fetch(nothing), lambda: False)
    queue.drain()
    assert queue.version == 0


def test_a_failure_of_a_thread_reaches_whoever_waits():
    queue = Queue(0)
    queue.fill([(0, 0)])
    queue.fail(ConnectionError("gone"))
    with pytest.raises(RuntimeError, match="a thread of the parameter server") as caught:
        queue.drain()
    assert str(caught.value.__cause__) == "gone"
