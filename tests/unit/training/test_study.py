"""The trials of a tuning in their database: what is tried, what a retry finds, what several processes do at once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines_lib.errors import Unavailable
from pipelines_lib.training.study import Study, Trial, best
from pipelines_lib.use_case import Training, Tuning

ROOT = Path(__file__).parents[3]
SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "batch_size": {"low": 64, "high": 512, "step": 64},
    "model.hidden": [[64], [128, 64]],
    "model.dropout": {"low": 0, "high": 0.5},
}


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Callable[..., Study]]:
    """Returns `study(file="a", training=…, **tuning)`: a study in a SQLite file of its own."""
    opened: list[Study] = []

    def open_study(file: str = "a", training: Training | None = None, epochs: int = 5, **tuning) -> Study:
        made = Study(
            f"sqlite:///{tmp_path}/{file}.db",
            "shop/run/x",
            Tuning.model_validate({"space": SPACE, **tuning}),
            training or Training(),
            epochs=epochs,
        )
        opened.append(made)
        return made

    yield open_study
    for made in opened:
        made.__exit__()


def loss_of(values: dict) -> float:
    """A bowl with its lowest point inside the space."""
    import math

    return (math.log10(values["learning_rate"]) + 2) ** 2 + (values["model.dropout"] - 0.2) ** 2 + (values["model.hidden"] == [64])


def run(study: Study, tasks: range) -> list[dict]:
    tried = []
    for task in tasks:
        trial = study.begin(task)
        tried.append(trial.values)
        study.end(task, "completed", loss=loss_of(trial.values))
    return tried


def test_one_after_the_other_they_follow_from_the_seed(study):
    first, again, other = (run(study(file, Training(seed=seed)), range(8)) for file, seed in (("a", 1), ("b", 1), ("c", 2)))

    assert first == again
    assert first[1:] != other[1:]
    assert len({str(values) for values in first}) == 8


def test_the_first_tries_the_settings_as_written_where_the_space_has_them(study):
    written = study().begin(0)
    assert written.values == {"learning_rate": 1e-3, "batch_size": 256, "model.hidden": [128, 64], "model.dropout": 0.1}

    outside = study("b", Training(batch_size=100)).begin(0)
    assert outside.values["batch_size"] % 64 == 0


def test_what_is_tried_lies_in_the_space_and_is_a_setting(study):
    from pipelines_lib.use_case.tuning import tuned

    for values in run(study(), range(15)):
        assert 1e-4 <= values["learning_rate"] <= 1e-1
        assert values["batch_size"] in range(64, 513, 64)
        assert isinstance(values["batch_size"], int)
        assert tuned(Training(), values).model.hidden in ([64], [128, 64])


def test_a_retry_finds_its_trial_as_it_was(study):
    begun = study().begin(3)
    assert study().report(3, 1, 0.75) is False

    # Another process, which has other trials before it, and does not report what was reported.
    later = study()
    later.begin(4)
    found = later.begin(3)
    assert found.values == begun.values
    assert found.losses == (0.75,)
    later.report(3, 1, 0.5)
    later.report(3, 2, 0.25)
    assert later.end(3, "completed", loss=0.25).losses == (0.75, 0.25)
    assert [trial.task for trial in later.trials()] == [3, 4]


def test_a_trial_that_has_ended_is_not_begun_or_ended_again(study):
    first = study()
    first.begin(1)
    ended = first.end(1, "failed", reason="the loss is nan")

    assert ended == study().begin(1)
    assert study().end(1, "completed", loss=0.0) == ended
    assert (ended.state, ended.reason, ended.loss) == ("failed", "the loss is nan", None)


def test_one_that_falls_behind_is_pruned_but_not_after_its_first_epoch(study):
    made = study()
    for task in range(6):
        made.begin(task)
        assert not any(made.report(task, epoch, 1.0 / epoch) for epoch in range(1, 3))
        made.end(task, "completed", loss=0.2)
    made.begin(6)

    assert made.report(6, 1, 9.0) is False
    assert made.report(6, 2, 9.0) is True
    assert made.end(6, "pruned", reason="given up").state == "pruned"
    # Its last loss is known, and does not make it the best.
    assert best(made.trials()).task == 0


def test_hyperband_prunes_and_none_does_not(study):
    def pruned(file: str, pruner: str) -> int:
        made, n_pruned = study(file, pruner=pruner, epochs=9), 0
        for task in range(7):
            made.begin(task)
            given_up = any(made.report(task, epoch, float(task)) for epoch in range(1, 10))
            n_pruned += given_up
            made.end(task, "pruned" if given_up else "completed", loss=None if given_up else float(task))
        return n_pruned

    assert pruned("a", "hyperband") > 0
    assert pruned("b", "none") == 0


def test_tpe_finds_the_bowl(study):
    run(study(), range(25))

    assert best(study().trials()).loss < 0.15


AT_ONCE = """
import sys
from pipelines_lib.training.study import Study
from pipelines_lib.use_case import Training, Tuning
url, first = sys.argv[1], int(sys.argv[2])
space = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
print("ready", flush=True)
sys.stdin.readline()
with Study(url, "at/once/x", Tuning.model_validate({"space": space}), Training(), epochs=5) as study:
    for task in range(first, 12, 4):
        values = study.begin(task).values
        for epoch in range(1, 3):
            study.report(task, epoch, values["learning_rate"] / epoch)
        study.end(task, "completed", loss=values["learning_rate"])
"""


def test_four_processes_at_once(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/new/t.db"
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", "-c", AT_ONCE, url, str(first)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for first in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=120)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0, 0], told
    space = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    with Study(url, "at/once/x", Tuning.model_validate({"space": space}), Training(), epochs=5) as study:
        trials = study.trials()
    assert [trial.task for trial in trials] == list(range(12))
    assert {trial.state for trial in trials} == {"completed"}
    assert {len(trial.losses) for trial in trials} == {2}
    assert len({trial.values["learning_rate"] for trial in trials}) == 12


def test_the_best_is_the_completed_one_of_the_lowest_loss_the_first_of_equals():
    def trial(task: int, state: str, loss: float | None) -> Trial:
        return Trial(task, state, {}, loss, ())  # type: ignore[arg-type]

    trials = [trial(3, "completed", 0.5), trial(1, "completed", 0.5), trial(0, "pruned", 0.1), trial(2, "unfinished", None)]
    assert best(trials).task == 1
    assert best(trials[2:]) is None


def test_a_database_that_is_away_is_named_without_its_password():
    url = "postgresql+psycopg://tuner:Geh3im@127.0.0.1:1/trials?connect_timeout=2"
    with pytest.raises(
        Unavailable, match=r"postgresql\+psycopg://tuner:\*\*\*@127.0.0.1:1/trials.* did not answer \(OperationalError\)"
    ) as caught:
        Study(url, "n", Tuning.model_validate({"space": SPACE}), Training(), epochs=1)

    assert "Geh3im" not in str(caught.value)
    assert caught.value.__suppress_context__
