"""From a day's file to people's answers in its labels; and ground truth from its own file to the labels."""

import json
import logging

import pytest

from pipelines_lib.data.review import inbox, tasks_path
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, DataError, Held
from pipelines_lib.jobs import ingest, prepare, relabel, validate

DAY = "2026-01-01"
COLUMNS = {
    "id": {"type": "string", "role": "key"},
    "text": {"type": "text"},
    "stars": {"type": "integer"},
}
HOOKS = """
import pyarrow.compute as pc

def likes(rows):
    return pc.if_else(pc.greater(rows["stars"], 3), "good", None)

def hates(rows):
    return pc.if_else(pc.match_substring(rows["text"], "refund"), "bad", None)
"""
DATA = "id,text,stars\na,lovely,5\nb,refund please,5\nc,refund,1\nd,well,3\n"


@pytest.fixture
def texts(sandbox, make_use_case):
    """A use case labelled by two functions, its file and its hooks in the sandbox."""
    folder = sandbox.project.use_cases / "shop"
    folder.mkdir(parents=True)
    (folder / "hooks.py").write_text(HOOKS)
    sandbox.source(DAY, DATA)
    label = {"rules": {"functions": ["likes", "hates"], "classes": ["good", "bad"]}, "positive": "good", "review": {"below": 0.8}}
    return make_use_case(columns=COLUMNS, label=label, split={"by": "row"})


def run(sandbox, use_case, key=DAY):
    for stage in (ingest, validate):
        sandbox.run(stage.main, stage.__name__.rpartition(".")[2], use_case, key)
    return sandbox.run(prepare.main, "prepare", use_case, key)


def root(sandbox, use_case):
    return sandbox.stage("prepare", use_case, DAY).root


def labels(sandbox, use_case):
    rows = Tables(root(sandbox, use_case)).read("labelled")
    return dict(zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True))


def answer(sandbox, use_case, **choices):
    """What Label Studio would export for the rows with these keys."""
    exported = json.loads(tasks_path(root(sandbox, use_case), DAY).read_text())
    rows = Tables(root(sandbox, use_case)).read("clean")
    keys = dict(zip(rows["row_id"].to_pylist(), rows["id"].to_pylist(), strict=True))
    for task in exported:
        choice = choices.get(keys[task["data"]["row_id"]])
        task["annotations"] = [{"result": [{"type": "choices", "value": {"choices": [choice]}}]}] if choice else []
    path = inbox(root(sandbox, use_case)) / "answers.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(exported))
    return path


def test_functions_label_and_the_uncertain_rows_wait_for_people(sandbox, texts):
    result = run(sandbox, texts)

    assert labels(sandbox, texts) == {"a": "good", "c": "bad"}
    assert result.outputs["n_for_review"] == 2
    assert result.figures["labels"][DAY]["functions"] == {
        "likes": {"coverage": 0.5, "overlaps": 0.25, "conflicts": 0.25},
        "hates": {"coverage": 0.5, "overlaps": 0.25, "conflicts": 0.25},
    }


def test_what_people_say_becomes_the_label(sandbox, texts):
    run(sandbox, texts)
    path = answer(sandbox, texts, b="bad", d="good")
    result = sandbox.run(relabel.main, "relabel", texts, DAY)

    assert labels(sandbox, texts) == {"a": "good", "b": "bad", "c": "bad", "d": "good"}
    assert result.reason == "took in 2 answers; labelled 4 of 2026-01-01"
    assert not path.exists()
    assert json.loads(tasks_path(root(sandbox, texts), DAY).read_text()) == []

    assert run(sandbox, texts).outputs["n_for_review"] == 0
    assert labels(sandbox, texts)["b"] == "bad"


def test_what_is_answered_is_taken_and_the_rest_goes_on_waiting(sandbox, texts, caplog):
    run(sandbox, texts)
    answer(sandbox, texts, b="bad")
    with caplog.at_level(logging.WARNING, logger="sluice"):
        result = sandbox.run(relabel.main, "relabel", texts, DAY)

    assert labels(sandbox, texts) == {"a": "good", "b": "bad", "c": "bad"}
    assert (result.figures["n_answers"], result.figures["n_problems"]) == (1, 1)
    assert "nobody has answered it" in caplog.text


def test_a_file_that_is_no_export_is_put_aside(sandbox, texts):
    run(sandbox, texts)
    path = answer(sandbox, texts)
    path.write_text("id,label\n")

    assert sandbox.run(relabel.main, "relabel", texts, DAY).figures["n_problems"] == 1
    assert [left.name for left in path.parent.iterdir()] == ["answers.rejected"]


def test_relabelling_again_changes_nothing(sandbox, texts):
    run(sandbox, texts)
    answer(sandbox, texts, b="bad")
    sandbox.run(relabel.main, "relabel", texts, DAY)
    version = Tables(root(sandbox, texts)).version("labelled")
    answer(sandbox, texts, b="bad")
    sandbox.run(relabel.main, "relabel", texts, DAY)

    assert Tables(root(sandbox, texts)).version("labelled") == version


def test_a_function_that_is_not_there(sandbox, texts):
    (sandbox.project.use_cases / "shop" / "hooks.py").write_text(HOOKS.replace("def hates", "def hated"))

    with pytest.raises(ConfigError, match=r"hooks.py: has no function hates, which label.rules.functions names"):
        run(sandbox, texts)


# --- ground truth -------------------------------------------------------------------------------------------------


@pytest.fixture
def claims(sandbox, make_use_case):
    """A use case whose truth comes in files of its own, known a day later."""
    source = {"path": "{home}/truth/{partition}.csv"}
    join = {"source": source, "on": {"id": "claim"}, "column": "outcome"}
    label = {"join": join, "horizon": 1, "map": {"1": "fraud", "0": "fine"}, "positive": "fraud"}
    columns = {"id": {"type": "string", "role": "key"}, "amount": {"type": "number"}}
    return make_use_case(columns=columns, label=label, split={"by": "row"})


def arrive(sandbox, day, rows, truths):
    sandbox.source(day, "id,amount\n" + rows)
    folder = sandbox.project.home / "truth"
    folder.mkdir(exist_ok=True)
    (folder / f"{day}.csv").write_text("outcome,claim\n" + truths)


def test_truth_from_a_file_of_its_own_labels_what_has_closed_and_again_what_it_is_late_for(sandbox, claims):
    arrive(sandbox, "2026-01-01", "a,1\nb,2\nc,3\n", "")
    arrive(sandbox, "2026-01-02", "d,1\n", "1,a\n,b\n")
    arrive(sandbox, "2026-01-03", "e,1\n", "0,d\n0,a\n0,b\n")
    done = [run(sandbox, claims, f"2026-01-0{day}") for day in (1, 2)]

    assert [one.outputs["labelled_partitions"] for one in done] == [[], ["2026-01-01"]]
    assert labels(sandbox, claims) == {"a": "fraud"}

    run(sandbox, claims, "2026-01-03")
    assert labels(sandbox, claims) == {"a": "fine", "b": "fine", "d": "fine"}


def test_what_is_told_of_the_truths(sandbox, claims):
    arrive(sandbox, DAY, "a,1\n", "1,a\n,b\n0,c\n" + "0,d\n" * 40 + "5,e\n")

    truths = sandbox.run(ingest.main, "ingest", claims, DAY).figures["ground_truth"]
    assert truths == {"n_records": 44, "n_unusable": 1, "n_open": 1, "n_truths": 42}


def test_truths_that_are_mostly_none_hold_the_partition(sandbox, claims):
    arrive(sandbox, DAY, "a,1\n", "1,a\nyes,b\n1,\n")

    with pytest.raises(
        Held, match=r"2 of 3 records \(66.7%\) can't be read, lack a key or have an outcome that is none of the label's values"
    ):
        sandbox.run(ingest.main, "ingest", claims, DAY)


def test_truth_without_its_columns(sandbox, claims):
    arrive(sandbox, DAY, "a,1\n", "")
    (sandbox.project.home / "truth" / f"{DAY}.csv").write_text("claims,outcome\na,1\n")

    with pytest.raises(DataError, match=r"no column 'claim', which label.join.on names; .*Did you mean 'claims'"):
        sandbox.run(ingest.main, "ingest", claims, DAY)


def test_keys_about_a_person_meet_as_pseudonyms(sandbox, make_use_case, claims):
    columns = {"id": {"type": "string", "role": "key", "privacy": "identifier"}, "amount": {"type": "number"}}
    use_case = make_use_case(columns=columns, label=claims.label.model_dump(exclude_unset=True), split={"by": "row"})
    arrive(sandbox, "2026-01-01", "ada,1\n", "")
    arrive(sandbox, "2026-01-02", "bob,1\n", "1, ada \n")
    for day in (1, 2):
        run(sandbox, use_case, f"2026-01-0{day}")

    assert list(labels(sandbox, use_case).values()) == ["fraud"]
    assert "ada" not in str(Tables(root(sandbox, use_case)).read("ground_truth").to_pylist())


def test_a_regression_may_be_joined_too(sandbox, make_use_case):
    join = {"source": {"path": "{home}/truth/{partition}.csv"}, "on": {"id": "claim"}, "column": "outcome"}
    columns = {"id": {"type": "string", "role": "key"}, "amount": {"type": "number"}}
    gate = {"metric": "rmse", "floor": 1}
    use_case = make_use_case(task="regression", columns=columns, label={"join": join}, split={"by": "row"}, gate=gate)
    arrive(sandbox, DAY, "a,1\nb,2\n", "1.5,a\n")
    run(sandbox, use_case)

    assert labels(sandbox, use_case) == {"a": 1.5}
