"""`tuning:`: what may be searched for, and what is said where it may not."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines_lib.config import load
from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import Searched, Training, Tuning, UseCase
from pipelines_lib.use_case.tuning import is_whole, setting, tuned

SPACE = """\
tuning:
  trials: 4
  epochs: 5
  pruner: hyperband
  time: 2h
  space:
    learning_rate: {low: 1.0e-4, high: 0.01, log: true}
    batch_size: [256, 512]
    model.dropout: {low: 0, high: 0.5, step: 0.1}
    model.hidden: [[64], [128, 64]]
    clip_norm: [null, 1.0]
    weight_decay: {low: 0, high: 1}
"""


@pytest.fixture
def read(tmp_path: Path, make_use_case):
    """Returns `read(text)`: the shop with `text` below its other settings."""

    def read(text: str) -> UseCase:
        path = tmp_path / "use_case.yaml"
        path.write_text(text + yaml.safe_dump(make_use_case().model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
        return load(path, UseCase)

    return read


def test_a_space_of_ranges_and_candidates(read):
    use_case = read(SPACE)
    tuning, training = use_case.tuning, use_case.training

    assert tuning is not None
    assert tuning.space["batch_size"].values == [256, 512]
    assert is_whole(training, "batch_size", Searched(low=1, high=9))
    assert not is_whole(training, "weight_decay", tuning.space["weight_decay"])
    assert UseCase.model_validate(use_case.model_dump(mode="json")) == use_case


def test_the_documentation_is_a_space(read):
    text = (Path(__file__).parents[3] / "docs" / "training" / "tuning.md").read_text(encoding="utf-8")
    use_case = read(text.split("```yaml\n")[1].split("```")[0])

    assert use_case.tuning is not None
    assert len(use_case.tuning.space) == 5


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("learning_rat: [1, 2]", r":4: tuning.space.learning_rat: training has no setting 'learning_rat'; known are .*learning_rate"),
        ("model.depth: [1, 2]", r":4: tuning.space.model.depth: training has no setting 'model.depth'; known are model.type, model.hidden"),
        ("batch_size: [256, 0]", r":4: tuning.space.batch_size.1: 0 is no value of training.batch_size: Input should be greater than"),
        (
            "model.dropout: {low: 0, high: 1}",
            r":4: tuning.space.model.dropout.high: 1 is no value of training.model.dropout: .*less than 1",
        ),
        ("strategy: [ddp, sdd]", r":4: tuning.space.strategy.1: 'sdd' is no value of training.strategy: Input should be 'ddp'"),
        (
            "shares: [equal, [1, 1, 1]]",
            r":4: tuning.space.shares.1: \[1, 1, 1\] is no value of training.shares: shares has 3 proportions for 2",
        ),
        ("tf32: {low: 0, high: 1}", r":4: tuning.space.tf32: training.tf32 is no number, so it has no range; write a list"),
        ("batch_size: {low: 64, high: 512, step: 0.5}", r":4: tuning.space.batch_size.step: training.batch_size is a whole number"),
        ("epochs: [3, 5]", r":4: tuning.space.epochs: training.epochs is not searched for: tuning.epochs says how long"),
        ("seed: [3, 5]", r":4: tuning.space.seed: training.seed is not searched for: a better seed is luck"),
        ("device: [cpu, cuda]", r":4: tuning.space.device: .*does not change what is learned"),
        ("learning_rate: [0.1]", r":4: tuning.space.learning_rate.values: List should have at least 2 items"),
        ("learning_rate: [0.1, 0.1]", r":4: tuning.space.learning_rate: a candidate is written twice; remove one"),
        ("learning_rate: {low: 0.1}", r":4: tuning.space.learning_rate: a range goes from `low` up to `high`, and this from 0.1 to None"),
        ("learning_rate: {low: 0.1, high: 0.01}", r":4: tuning.space.learning_rate: a range goes from `low` up to `high`"),
        ("learning_rate: {low: 0, high: 1, log: true}", r":4: tuning.space.learning_rate: orders of magnitude begin above 0"),
        ("learning_rate: {low: 1, high: 2, log: true, step: 1}", r":4: tuning.space.learning_rate: .*either orders of magnitude or steps"),
        ("learning_rate: {values: [1, 2], low: 1}", r":4: tuning.space.learning_rate: give a list of candidates, or a range"),
        ("learning_rate: {hi: 2}", r":4: tuning.space.learning_rate.hi: unknown key; known here are: values, low, high, log, step"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(read, line: str, says: str):
    with pytest.raises(ConfigError) as caught:
        read(f"tuning:\n  trials: 4\n  space:\n    {line}\n")

    assert re.search(says, str(caught.value)), caught.value


@pytest.mark.parametrize(
    ("training", "space", "says"),
    [
        ("{sync_steps: 4}", None, r":1: training.sync_steps: `sync_steps` is a setting of `strategy: local_sgd`, and this training is ddp; remove"),
        ("{strategy: async, sync_steps: 4}", None, r":1: training.sync_steps: .* this training is async"),
        ("{staleness: 9}", None, r":1: training.staleness: `staleness` is a setting of `strategy: async`"),
        ("{strategy: async, shares: [3, 1]}", None, r":1: training.shares: with `strategy: async` whoever is faster fetches more"),
        ("{sync_steps: 4}", "{strategy: [ddp, fsdp]}", r":1: training.sync_steps: .* this training is ddp or fsdp; remove it"),
        ("{}", "{sync_steps: [4, 8]}", r":2: tuning.space.sync_steps: `sync_steps` is a setting of `strategy: local_sgd`"),
        ("{strategy: local_sgd, sync_steps: 4}", None, None),
        ("{sync_steps: 8, staleness: 4}", None, None),  # as the defaults are written out
        ("{sync_steps: 4}", "{strategy: [ddp, local_sgd]}", None),
        ("{strategy: local_sgd}", "{sync_steps: [4, 8]}", None),
    ],
)  # fmt: skip
def test_settings_that_no_strategy_uses_are_refused_with_their_line(read, training, space, says):
    text = f"training: {training}\n" + (f"tuning: {{trials: 2, space: {space}}}\n" if space else "")
    if says is None:
        read(text)
        return
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert re.search(says, str(caught.value)), caught.value


def test_one_trial_tunes_nothing(read):
    with pytest.raises(ConfigError, match=r":2: tuning.trials: Input should be greater than or equal to 2"):
        read("tuning:\n  trials: 1\n  space: {learning_rate: [0.1, 0.2]}\n")


def test_settings_are_put_into_a_training():
    training = Training(learning_rate=0.5, patience=7)
    found = tuned(training, {"model.hidden": [32], "model.dropout": 0.25, "learning_rate": 0.125})

    assert found == Training.model_validate({"learning_rate": 0.125, "patience": 7, "model": {"hidden": [32], "dropout": 0.25}})
    assert [setting(found, name) for name in ("model.hidden", "learning_rate", "model.none", "none.at.all")] == [[32], 0.125, None, None]
    with pytest.raises(ValidationError):
        tuned(training, {"model.hidden": "many"})


def test_options_of_a_model_of_ones_own_are_settings():
    training = Training.model_validate({"model": {"type": "hooks", "options": {"depth": 2, "kind": "a"}}})

    assert tuned(training, {"model.options.depth": 5}).model.options == {"depth": 5, "kind": "a"}


@given(st.floats(1e-5, 1e-1), st.sampled_from([64, 128, 256]), st.floats(0, 0.9), st.lists(st.integers(1, 512), min_size=1, max_size=3))
def test_what_is_put_in_is_what_is_found_and_nothing_else_changes(rate: float, size: int, dropout: float, hidden: list[int]):
    values = {"learning_rate": rate, "batch_size": size, "model.dropout": dropout, "model.hidden": hidden}
    found = tuned(Training(), values)

    assert {name: setting(found, name) for name in values} == values
    assert tuned(found, {name: setting(Training(), name) for name in values}) == Training()


@given(st.integers(-50, 50), st.integers(1, 50), st.integers(1, 7), st.data())
def test_a_range_has_its_steps_and_nothing_beyond(low: int, width: int, step: int, data):
    searched = Searched(low=low, high=low + width, step=step)
    value = data.draw(st.integers(low - 60, low + width + 60))

    assert searched.has(value) == (low <= value <= low + width and (value - low) % step == 0)


def test_a_candidate_is_had_as_it_is_written():
    searched = Tuning.model_validate({"space": {"model.hidden": [[64], [128, 64]]}}).space["model.hidden"]

    assert searched.has([64])
    assert not searched.has([32])
