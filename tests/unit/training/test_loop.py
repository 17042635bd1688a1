"""The loop: golden losses, resuming, stopping early, refusing what is not finite."""

import json
from pathlib import Path

import pytest
import torch

from pipelines_lib.errors import DataError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "losses.json").read_text())


def weights(loop):
    return {name: tensor.clone() for name, tensor in loop._model.state_dict().items()}


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


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_at", [0, 3, 6, 14])
def test_a_killed_training_ends_in_the_weights_of_one_that_was_not(make_loop, killed_at):
    whole = make_loop("whole", checkpoint_steps=2)
    expected = whole.run()
    dying = make_loop("dying", checkpoint_steps=2)
    step, n_done = dying._step, 0

    def step_or_die(batch, epoch, number):
        nonlocal n_done
        if n_done == killed_at:
            raise KilledError
        n_done += 1
        return step(batch, epoch, number)

    dying._step = step_or_die
    with pytest.raises(KilledError):
        dying.run()
    resumed = make_loop("dying", checkpoint_steps=2)
    counted = []
    resumed_step = resumed._step
    resumed._step = lambda *args: counted.append(1) or resumed_step(*args)
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
    again._step = None
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
    with pytest.raises(DataError, match=r"the loss is inf .* row17[, ;]"):
        loop.run()


def test_an_exploded_training_is_told_to_slow_down(make_loop):
    with pytest.raises(DataError, match=r"lower training\.learning_rate"):
        make_loop(task="regression", learning_rate=1e30).run()
