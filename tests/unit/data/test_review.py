import json
import xml.etree.ElementTree as ET

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines_lib.data.review import (
    Pending,
    deliver,
    export,
    inbox,
    keep_answers,
    label_config,
    read_answers,
    reviews_of,
    tasks,
    tasks_path,
    with_reviews,
    write_tasks,
)
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError

DAY = "2026-01-01"
COLUMNS = {
    "note": {"type": "text"},
    "seen": {"type": "timestamp", "role": "time"},
    "price": {"type": "number"},
    "town": {"type": "string", "privacy": "quasi_identifier"},
    "who": {"type": "string", "role": "entity"},
}
RULES = {"functions": ["f", "g"], "classes": ["yes", "no"]}


@pytest.fixture
def asked(make_use_case):
    """Returns `asked(**review)`: a use case labelled by rules that asks people."""

    def make(columns=COLUMNS, **review):
        return make_use_case(columns=columns, label={"rules": RULES, "positive": "yes", "review": {"below": 0.8, **review}}, split={})

    return make


def rows(*labels, first=1):
    """Rows of (label, confidence)."""
    n = len(labels)
    return pa.table(
        {
            "row_id": pa.array([f"{DAY}:{first + i:09d}" for i in range(n)], pa.string()),
            "note": pa.array([f"note {first + i}" for i in range(n)], pa.string()),
            "seen": pa.array([None] * n, pa.timestamp("us")),
            "price": pa.array([1.5] * n, pa.float64()),
            "town": pa.array(["Bonn"] * n, pa.string()),
            "who": pa.array(["ada"] * n, pa.string()),
            "label": pa.array([label for label, _ in labels], pa.string()),
            "label_confidence": pa.array([confidence for _, confidence in labels], pa.float64()),
        }
    )


def picked(use_case, *batches, reviewed=()):
    pending = Pending(use_case, dict.fromkeys(reviewed))
    for batch in batches:
        pending.add(batch)
    found = pending.rows()
    return [] if found is None else [int(row_id[-2:]) for row_id in found["row_id"].to_pylist()]


def test_people_are_asked_for_the_least_certain_first_and_not_twice(asked):
    batch = rows(("yes", 0.9), ("yes", 0.7), (None, None), ("no", 0.6), ("no", 0.79))

    assert picked(asked(), batch) == [3, 4, 2, 5]
    assert picked(asked(per_partition=2), batch) == [3, 4]
    assert picked(asked(per_partition=2), batch, reviewed=[f"{DAY}:{3:09d}"]) == [4, 2]


def test_without_confidence_a_sample_is_asked_for_that_is_always_the_same(asked):
    batch = rows(*[("yes", 0.9)] * 40)
    sample = picked(asked(below=None, per_partition=8), batch)

    assert len(sample) == 8
    assert sample != sorted(sample)
    assert picked(asked(below=None, per_partition=8), rows(*[("yes", 0.9)] * 40)) == sample


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.9]), max_size=30), st.integers(0, 30), st.integers(1, 5))
def test_who_is_asked_for_does_not_depend_on_how_rows_are_cut(asked, confidences, cut, most):
    whole = rows(*[("yes", c) for c in confidences])

    assert picked(asked(per_partition=most), whole.slice(0, cut), whole.slice(cut)) == picked(asked(per_partition=most), whole)


def test_a_task_shows_features_and_nobody(asked):
    [task, silent] = tasks(rows(("yes", 2 / 3), (None, None)), DAY, asked())

    assert task["data"]["item"] == {"note": "note 1", "price": 1.5}
    assert {"row_id", "partition_key", "fingerprint", "use_case"} < set(task["data"])
    choice = {"from_name": "label", "to_name": "item", "type": "choices", "value": {"choices": ["yes"]}}
    assert task["predictions"] == [{"model_version": "label", "score": 0.666667, "result": [choice]}]
    assert "predictions" not in silent
    assert not any(told in json.dumps(task) for told in ("Bonn", "ada"))


def test_the_configuration_offers_the_classes_whatever_they_are_called():
    config = ET.fromstring(label_config(['<yes> & "no"', "他"]))

    assert [choice.get("value") for choice in config.iter("Choice")] == ['<yes> & "no"', "他"]
    assert {config.find("Table").get("name"), config.find("Choices").get("toName")} == {"item"}


@pytest.fixture
def waiting(tmp_path, asked):
    """A store with five clean rows, two of which wait for review: (root, use case, tables, tasks)."""
    use_case = asked(per_partition=2)
    labelled = rows(("yes", 0.9), ("yes", 0.7), (None, None), ("no", 0.6), ("no", 0.95))
    tables = Tables(tmp_path)
    tables.write("clean", DAY, labelled.drop_columns(["label", "label_confidence"]))
    pending = Pending(use_case, {})
    pending.add(labelled)
    assert write_tasks(tmp_path, DAY, pending.rows(), use_case) == 2
    export(tmp_path, use_case, None, tmp_path / "tasks.json")
    return tmp_path, use_case, tables, json.loads((tmp_path / "tasks.json").read_text())


def test_an_export_holds_the_tasks_and_the_configuration(waiting, tmp_path):
    root, use_case, _, exported = waiting

    assert [task["data"]["row_id"][-1] for task in exported] == ["3", "4"]
    assert '<Choice value="yes"/>' in (tmp_path / "label_config.xml").read_text()
    assert export(root, use_case, [DAY, "2026-01-02"], tmp_path / "again.json")[0] == 2
    with pytest.raises(DataError, match="no row of shop in 2026-01-02 waits for review"):
        export(root, use_case, ["2026-01-02"], tmp_path / "none.json")


def test_when_nothing_waits_any_more_no_task_does(waiting):
    root, use_case, *_ = waiting
    write_tasks(root, DAY, None, use_case)

    assert json.loads(tasks_path(root, DAY).read_text()) == []


def answered(task, *choices, **more):
    """The task as Label Studio exports it, with an annotation a person."""
    annotations = [
        {"result": [{"type": "choices", "from_name": "label", "to_name": "item", "value": {"choices": [choice]}}], "was_cancelled": False}
        for choice in choices
    ]
    return {"id": 7, **task, "annotations": annotations, **more}


def answers(path, use_case, *exported):
    path.write_text(json.dumps(list(exported)), encoding="utf-8")
    return read_answers(path, use_case)


def test_what_people_say_is_counted(waiting, tmp_path):
    _, use_case, _, [first, second] = waiting
    good, problems = answers(tmp_path / "a.json", use_case, answered(first, "yes", "no", "yes"), answered(second, "no"))

    assert [(a.row_id[-1], a.label, round(a.agreement, 3), a.n_people) for a in good] == [("3", "yes", 0.667, 3), ("4", "no", 1.0, 1)]
    assert problems == []


def test_two_tasks_of_a_row_are_one_question(waiting, tmp_path):
    _, use_case, _, [first, _] = waiting
    [answer], problems = answers(tmp_path / "a.json", use_case, answered(first, "no", "yes"), answered(first, "no"))

    assert ((answer.label, answer.n_people), problems) == (("no", 3), [])


CANCELLED = {"result": [], "was_cancelled": True}


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda task: answered(task, "yes", "no"), "2 answers and no majority"),
        (answered, "task 0: nobody has answered it"),
        (lambda task: answered(task, annotations=[CANCELLED]), "task 0: nobody has answered it"),
        (lambda task: answered(task, "maybe"), "task 0: an answer is none of the classes yes, no"),
        (lambda task: answered(task, annotations=[{"result": []}]), "task 0: an answer has 0 choices"),
        (lambda task: answered(task, annotations=[{"result": [{"type": "choices", "value": {"choices": ["yes", "no"]}}]}]), "2 choices"),
        (lambda task: answered(task, annotations=[{"result": [{"type": "choices", "value": {"choices": [7]}}]}]), "it must have one"),
        (lambda task: answered(task, annotations=[{"result": "none"}]), "0 choices"),
        (lambda task: {"id": 3, "annotations": []}, "task 0: has no `data`"),
        (lambda task: "a text", "task 0: has no `data`"),
        (lambda task: answered(task | {"data": {"text": "hello"}}, "yes"), "it is none of Sluice's"),
        (lambda task: answered(task | {"data": task["data"] | {"use_case": "other"}}, "yes"), "not a task of use case shop"),
        (lambda task: answered(task | {"data": task["data"] | {"partition_key": "2026-01-02"}}, "yes"), "none of its partition"),
        (lambda task: answered(task | {"data": task["data"] | {"partition_key": "x", "row_id": "x:1"}}, "yes"), "is not a partition"),
    ],
)
def test_a_task_that_can_not_be_taken_is_told_and_the_others_are_taken(waiting, tmp_path, break_it, says):
    _, use_case, _, [first, second] = waiting
    good, [problem] = answers(tmp_path / "a.json", use_case, break_it(first), answered(second, "no"))

    assert [answer.row_id for answer in good] == [second["data"]["row_id"]]
    assert says in problem


@pytest.mark.parametrize(("text", "says"), [("{", "can't be read as JSON"), ('{"tasks": []}', "no list of tasks")])
def test_a_file_that_is_no_export(waiting, tmp_path, text, says):
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(DataError, match=says):
        read_answers(tmp_path / "a.json", waiting[1])


def keep(tmp_path, waiting, *exported):
    _, use_case, tables, _ = waiting
    return keep_answers(tables, answers(tmp_path / "a.json", use_case, *exported)[0], use_case)


def test_answers_are_kept_a_partition_and_a_new_one_stands_for_the_old(waiting, tmp_path):
    _, _, tables, [first, second] = waiting
    assert keep(tmp_path, waiting, answered(first, "yes"), answered(second, "no")) == ([DAY], [])
    keep(tmp_path, waiting, answered(second, "yes", "yes"))

    assert {row[-1]: (r["label"], r["n_people"]) for row, r in reviews_of(tables, DAY).items()} == {"3": ("yes", 1), "4": ("yes", 2)}
    version = tables.version("reviews")
    keep(tmp_path, waiting, answered(second, "yes", "yes"))
    assert tables.version("reviews") == version


def test_an_answer_about_a_row_that_has_changed_is_not_taken(waiting, tmp_path):
    _, _, tables, [first, second] = waiting
    now = tables.read("clean", [DAY]).slice(0, 3)
    tables.write("clean", DAY, now.set_column(now.column_names.index("price"), "price", pa.array([1.5, 1.5, 2.5])))

    _, [changed, gone] = keep(tmp_path, waiting, answered(first, "yes"), answered(second, "no"))
    assert "has changed since it was exported; export again" in changed
    assert "is not there any more" in gone
    assert reviews_of(tables, DAY) == {}


def test_people_go_before_the_rules(waiting, tmp_path):
    _, use_case, tables, [first, second] = waiting
    keep(tmp_path, waiting, answered(first, "yes", "yes", "no"), answered(second, "yes"))
    labelled, n = with_reviews(rows(("no", 0.9), ("no", 0.9), (None, None), ("no", 0.6)), reviews_of(tables, DAY), use_case)

    assert n == 2
    assert labelled["label"].to_pylist() == ["no", "no", "yes", "yes"]
    assert labelled["label_confidence"].to_pylist() == [0.9, 0.9, pytest.approx(2 / 3), 1.0]


def test_a_row_that_has_changed_since_keeps_the_rules_label(waiting, tmp_path):
    _, use_case, tables, [first, _] = waiting
    keep(tmp_path, waiting, answered(first, "yes"))
    other = rows((None, None), first=3).set_column(1, "note", pa.array(["another note"]))

    assert with_reviews(other, reviews_of(tables, DAY), use_case)[1] == 0


def test_a_key_names_a_row_whatever_cleaning_makes_of_it(tmp_path, asked):
    use_case = asked(columns={**COLUMNS, "id": {"type": "string", "role": "key"}})
    labelled = rows((None, None)).append_column("id", pa.array(["e1"]))
    [task] = tasks(labelled, DAY, use_case)
    cleaned = labelled.set_column(labelled.column_names.index("price"), "price", pa.array([0.3]))

    assert tasks(cleaned, DAY, use_case)[0]["data"]["fingerprint"] == task["data"]["fingerprint"]
    assert tasks(labelled.set_column(8, "id", pa.array(["e2"])), DAY, use_case)[0]["data"]["fingerprint"] != task["data"]["fingerprint"]


def test_answers_are_delivered_where_the_pipeline_takes_them_in(waiting, tmp_path):
    root, use_case, _, [first, _] = waiting
    (tmp_path / "a.json").write_text(json.dumps([answered(first, "yes")]), encoding="utf-8-sig")
    (tmp_path / "b.json").write_text(json.dumps([answered(first)]))

    assert deliver(tmp_path / "a.json", root, use_case) == [DAY]
    assert [path.suffix for path in inbox(root).iterdir()] == [".json"]
    with pytest.raises(DataError, match="nobody has answered it"):
        deliver(tmp_path / "b.json", root, use_case)


def test_columns_may_have_any_name_that_a_column_may_have(asked):
    columns = {**COLUMNS, "turn": {"type": "string"}, "certain": {"type": "number"}}
    pending = Pending(asked(columns), {})
    more = {"turn": pa.array(["left", "right"]), "certain": pa.array([1.0, 2.0])}
    pending.add(pa.table({**dict(zip(rows().column_names, rows(("yes", 0.5), (None, 0.0)).columns, strict=True)), **more}))

    assert pending.rows()["turn"].to_pylist() == ["right", "left"]


@pytest.mark.parametrize("field", ["row_id", "fingerprint"])
def test_half_a_character_is_a_problem_and_no_failure(asked, tmp_path, field):
    [task] = tasks(rows(("yes", 0.5)), DAY, asked())
    task["data"][field] += "\ud800"
    task["annotations"] = [{"result": [{"type": "choices", "value": {"choices": ["yes"]}}]}]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([task]))

    answers, problems = read_answers(path, asked())

    assert (answers, len(problems)) == ([], 1)


def test_a_file_of_brackets_is_no_export(asked, tmp_path):
    path = tmp_path / "answers.json"
    path.write_text("[" * 100_000)

    with pytest.raises(DataError, match="can't be read as JSON"):
        read_answers(path, asked())


def test_a_task_does_not_show_a_label_that_is_about_a_person(make_use_case):
    columns = {**COLUMNS, "ill": {"type": "string", "role": "label", "privacy": "sensitive"}}
    label = {"column": "ill", "map": {"1": "yes", "0": "no"}, "positive": "yes", "review": {}}

    [task] = tasks(rows(("yes", None)), DAY, make_use_case(columns=columns, label=label))

    assert "predictions" not in task
