"""The loop: golden losses, resuming, stopping early, refusing what is not finite."""

import errno
import json
import logging
import os
import signal
from pathlib import Path

import pytest
import torch

from pipelines_lib.errors import DataError, Held, Interrupted
from pipelines_lib.training import loop as training_loop
from pipelines_lib.training.checkpoints.files import Folder
from pipelines_lib.training.dataset import order
from pipelines_lib.training.observer import Observer, TaskLog
from pipelines_lib.training.progress import Progress, Stopped, learning_rate
from pipelines_lib.use_case import Training

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "losses.json").read_text())


def weights(loop):
    return {name: tensor.clone() for name, tensor in loop.weights().items()}


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_the_losses_are_golden(make_loop, task):
    progress = make_loop(task=task).run()
    for name in ("train_loss", "validation_loss"):
        assert [round(epoch[name], 4) for epoch in progress.history] == pytest.approx(GOLDEN[task][name], abs=2e-4)


def test_the_same_training_again_gives_the_same_weights(make_loop):
    first, second = make_loop("a"), make_loop("b")
    assert first.run() == second.run()
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name]), name


def test_the_rows_come_in_the_order_that_the_settings_ask_for(make_loop):
    first, second, other = make_loop("a", shuffle="blocks"), make_loop("b", shuffle="blocks"), make_loop("c")
    assert first.run() == second.run() != other.run()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_at", [0, 3, 6, 14])
def test_a_killed_training_ends_in_the_weights_of_one_that_was_not(make_loop, killed_at):
    whole = make_loop("whole", checkpoint_steps=2)
    expected = whole.run()
    dying = make_loop("dying", checkpoint_steps=2)
    update, n_done = dying._update, 0

    def update_or_die(*work):
        nonlocal n_done
        if n_done == killed_at:
            raise KilledError
        n_done += 1
        update(*work)

    dying._update = update_or_die
    with pytest.raises(KilledError):
        dying.run()
    dying._checkpoints.wait()  # a process that is killed does not go on writing
    resumed = make_loop("dying", checkpoint_steps=2)
    counted = []
    resumed_update = resumed._update
    resumed._update = lambda *work: counted.append(1) or resumed_update(*work)
    found = resumed.run()
    assert [list(epoch.values()) for epoch in found.history] == [pytest.approx(list(epoch.values())) for epoch in expected.history]
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    # Of fifteen steps at most one (and the epoch's tail) is done again.
    assert len(counted) <= 15 - killed_at + 1


def test_a_finished_training_does_no_step_again(make_loop):
    finished = make_loop()
    expected = finished.run()
    again = make_loop()
    again._update = None
    assert again.run() == expected
    for name, tensor in weights(finished).items():
        assert torch.equal(tensor, weights(again)[name]), name


def test_it_stops_when_the_validation_loss_does_and_keeps_the_best_weights(make_loop):
    loop = make_loop(epochs=50, patience=2, learning_rate=0.05)
    progress = loop.run()
    losses = [epoch["validation_loss"] for epoch in progress.history]
    assert len(losses) < 50
    assert progress.best_epoch == len(losses) - 2 == losses.index(min(losses)) + 1
    assert loop._validation_loss() == pytest.approx(min(losses))


def test_a_loss_that_is_not_finite_names_the_rows(make_loop):
    loop = make_loop(task="regression", batch_size=8)
    loop._train.labels[17] = float("inf")
    before = weights(loop)
    with pytest.raises(DataError, match=r"the loss is inf .* for the rows row17; look for extreme values"):
        loop.run()
    # It stopped before that batch could change a weight; those before it did.
    assert all(torch.isfinite(tensor).all() for tensor in weights(loop).values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(loop).items())


def test_a_rank_without_rows_computes_none_that_others_do_not(make_loop, monkeypatch):
    # Of batches of 149 and 1 this rank, of two, has the first 60 rows and none, and row 0 is the other's.
    seed = next(seed for seed in range(99) if 60 <= order(150, seed, 0).tolist().index(0) < 149)
    monkeypatch.setattr(training_loop, "agreed", lambda *_: (0.4, 0.6))
    loop = make_loop(task="regression", batch_size=149, epochs=1, seed=seed)
    loop._train.labels[0] = float("nan")
    loop.run()
    assert all(torch.isfinite(tensor).all() for tensor in weights(loop).values())


def test_where_looking_at_a_loss_would_stop_the_device_it_is_found_at_the_next_meeting(make_loop, monkeypatch):
    loop = make_loop(task="regression", batch_size=8)
    loop._train.labels[17] = float("inf")
    monkeypatch.setattr(loop, "_looks_at_once", False)
    monkeypatch.setattr(loop, "_between", 64)
    with pytest.raises(DataError, match=r"the loss is inf .* for the rows row17; look for extreme values"):
        loop.run()
    assert loop._checkpoints.newest() is None


def test_an_exploded_training_is_told_to_slow_down(make_loop):
    with pytest.raises(DataError, match=r"lower training\.learning_rate"):
        make_loop(task="regression", learning_rate=1e30).run()


def test_asked_to_end_with_a_full_disk_it_says_that_a_retry_goes_on_from_an_older_checkpoint(make_loop, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asked = make_loop("asked", checkpoint_steps=4)
    update, n_done = asked._update, []

    def update_and_ask(*work):
        update(*work)
        n_done.append(1)
        if len(n_done) == 7:
            monkeypatch.setattr(Folder, "write", full)
            signal.raise_signal(signal.SIGTERM)

    asked._update = update_and_ask
    with pytest.raises(Interrupted, match="epoch 2; no checkpoint of this moment could be written"):
        asked.run()


def test_a_training_that_is_asked_to_end_keeps_what_it_did_and_goes_on_from_there(make_loop):
    expected = make_loop("whole")
    expected.run()
    asked = make_loop("asked")
    update, n_done = asked._update, []

    def update_and_ask(*work):
        update(*work)
        n_done.append(1)
        if len(n_done) == 7:
            signal.raise_signal(signal.SIGTERM)

    asked._update = update_and_ask
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="epoch 2"):
        asked.run()
    assert signal.getsignal(signal.SIGTERM) is before
    resumed = make_loop("asked")
    counted, resumed_update = [], resumed._update
    resumed._update = lambda *work: counted.append(1) or resumed_update(*work)
    resumed.run()
    assert len(n_done) + len(counted) == 15
    for name, tensor in weights(expected).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_an_observer_hears_of_everything_and_may_end_it(make_loop):
    class Listener(Observer):
        def __init__(self):
            self.heard = []

        def started(self, progress, step):
            self.heard.append(("started", progress.epoch, step))

        def progress(self, pace):
            assert 0 < pace.step <= pace.n_steps == 15
            assert pace.loss > 0
            assert pace.rows_per_second > 0
            self.heard.append(("progress", pace.step))

        def epoch(self, entry):
            self.heard.append(("epoch", entry["epoch"]))
            return Held("enough") if entry["epoch"] == 2 else None

        def saved(self, moment):
            self.heard.append(("saved", moment))

    listener = Listener()
    with pytest.raises(Stopped) as stopped:
        make_loop(observers=[listener]).run()
    assert isinstance(stopped.value.why, Held)
    kinds = [what[0] for what in listener.heard]
    assert listener.heard[0] == ("started", 0, 0)
    assert kinds.count("epoch") == 2
    assert kinds.count("saved") == 2
    resumed = Listener()
    make_loop(observers=[resumed]).run()
    assert resumed.heard[0] == ("started", 2, 10)


def test_the_log_of_a_resumed_training_knows_the_best_epoch_and_the_last(caplog):
    caplog.set_level(logging.INFO)
    settings = Training(epochs=3)
    told = TaskLog(settings)
    told.started(Progress(epoch=2, best_loss=0.5, best_epoch=1), 10)
    told.epoch({"epoch": 3, "train_loss": 0.4, "validation_loss": 0.6})
    TaskLog(settings).started(Progress(epoch=1, step_in_epoch=2), 7)

    assert [record.getMessage() for record in caplog.records] == [
        "resumed from the checkpoint after epoch 2, step 10",
        "epoch 3/3  loss 0.4000  validation 0.6000",
        "resumed from the checkpoint in epoch 2, step 7",
    ]


def test_a_cosine_schedule_rises_and_falls_to_nothing():
    settings = Training(schedule="cosine", learning_rate=0.1)
    rates = [learning_rate(settings, step, 200) for step in range(200)]
    assert rates[4] == pytest.approx(0.05)
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert learning_rate(Training(learning_rate=0.1), 150, 200) == 0.1
