import re
from xml.etree import ElementTree

import pyarrow as pa
import pytest

from pipelines_lib.contracts import LATEST_REPORT, LEDGER, Firing, Ledger
from pipelines_lib.data.tables import Tables
from pipelines_lib.monitoring.charts import Line, chart, timeline
from pipelines_lib.monitoring.sketch import profile_columns
from pipelines_lib.store import read_json, write_json


@pytest.fixture
def root(sandbox, deploy):
    root = sandbox.project.home / "store" / "shop"
    deploy(root, 1)
    return root


def test_the_page_shows_what_was_seen_and_decided(answer, monitor, root):
    answer("2026-01-05", shift=2)
    results = monitor("2026-01-05")
    assert results["report"].links == {"Drift report": "shop/reports/2026-01-05.html"}
    page = (root / "reports" / "2026-01-05.html").read_text(encoding="utf-8")
    assert results["decide"].outputs["reason"] in page
    assert 'name="viewport"' in page
    assert "200 of 200 answers have a label" in page
    charts = re.findall(r"<svg.*?</svg>", page)
    assert [re.search('aria-label="(.*?)"', svg)[1] for svg in charts].count("distribution then and now") == 4, (
        "age, amount, prediction, score"
    )
    assert len(charts) == 6, "and, over time, the inputs and the answers; of performance one class alone says nothing"
    for svg in charts:
        ElementTree.fromstring(svg)
    assert "http://" not in page
    assert "https://" not in page
    assert read_json(root / "status" / "monitoring.json") == {
        "partition_key": "2026-01-05",
        "decision": "hold",
        "reason": results["decide"].outputs["reason"],
        "n_rows": 200,
        "n_columns": 4,
        "drifted_share": 0.5,
        "loss": None,
        "effects": read_json(root / "status" / "monitoring.json")["effects"],
        "drifted": ["age", "amount", "prediction", "score"],
        "champion_version": 1,
        "fired": False,
        "performance": results["measure"].outputs["performance"],
        "realised": {"partition_key": "2026-01-05", "metrics": results["measure"].outputs["performance"]["metrics"]},
        "estimated": None,
        "health": results["measure"].outputs["health"],
        "report": "shop/reports/2026-01-05.html",
    }


def test_the_page_looks_back(sandbox, shop, answer, monitor, root):
    for day, shift in (("2026-01-04", 0), ("2026-01-06", 0.8), ("2026-01-07", 0.8)):
        answer(day, shift=shift, wrong=10)
        monitor(day)
    assert "No training was started for it yet" in (root / "reports" / "2026-01-07.html").read_text(encoding="utf-8")
    page = _page_after(sandbox, shop, root, Firing(partition_key="2026-01-07", run_id="drift__shop__v1__2026-01-07", model_version=1, at=0))
    assert "No training was started" not in page
    assert (root / LATEST_REPORT).read_text(encoding="utf-8") == page
    assert read_json(root / "status" / "monitoring.json")["fired"]
    inputs, answers, performance = re.findall(r'<svg[^>]*aria-label="over time".*?</svg>', page)
    assert [point[-10:] for point in re.findall(r"<title>(\S+): inputs drifted", inputs)] == ["2026-01-04", "2026-01-06", "2026-01-07"]
    assert "<title>2026-01-07: retrain</title>" in inputs
    assert ">share</text>" in inputs
    assert ">psi</text>" in answers
    assert performance.count(" interval") == 3
    assert ">hold-out</text>" in performance
    [row] = Tables(root).read("decisions", ["2026-01-07"]).to_pylist()
    assert (row["action"], row["objections"], row["n_inputs"], row["drifted_share"], row["fired"]) == ("retrain", [], 4, 0.5, True)


def test_a_retraining_that_another_forestalled_is_not_shown_as_fired(sandbox, shop, answer, monitor, root):
    for day in ("2026-01-06", "2026-01-07"):
        answer(day, shift=0.8)
        monitor(day)
    page = _page_after(sandbox, shop, root, Firing(partition_key="2026-01-09", run_id="another", model_version=1, at=0))
    assert "No training was started for it: one was for 2026-01-09 (run another) after this was decided." in page
    assert "<title>2026-01-07: retrain</title>" not in page
    [row] = Tables(root).read("decisions", ["2026-01-07"]).to_pylist()
    assert (row["action"], row["fired"]) == ("retrain", False)


def _page_after(sandbox, shop, root, firing):
    """The page of 2026-01-07, made once `firing` was in the ledger."""
    from pipelines_lib.jobs import report

    write_json(root / LEDGER, Ledger(fired=(firing,)))
    report.main(sandbox.stage("report", shop, "2026-01-07"))
    return (root / "reports" / "2026-01-07.html").read_text(encoding="utf-8")


def test_every_rule_that_speaks_against_a_retraining_is_on_the_page(answer, monitor, root):
    answer("2026-01-05", shift=2)
    monitor("2026-01-05", trainings_in_flight=1)
    page = (root / "reports" / "2026-01-05.html").read_text(encoding="utf-8")
    assert "<b>in_flight</b>: 1 training(s) of this use case are under way" in page


def test_of_a_column_about_a_person_no_value_is_shown(sandbox, answer, shop, root):
    from importlib import import_module

    answer("2026-01-05", shift=2)
    columns = {name: {**column, "privacy": "sensitive"} for name, column in shop.model_dump(mode="json")["columns"].items()}
    private = shop.model_validate({**shop.model_dump(mode="json"), "columns": columns})
    pages = {}
    for told, use_case in (("named", shop), ("masked", private)):
        for name in ("profile", "measure", "decide", "report"):
            stage = import_module(f"pipelines_lib.jobs.{name}")
            sandbox.run(stage.main, name, use_case, "2026-01-05")
        pages[told] = (root / "reports" / "2026-01-05.html").read_text(encoding="utf-8")
    edges = re.findall(r"<title>up to ([^:]*):", pages["named"])

    assert len(edges) > 20
    assert re.findall(r"<title>up to (no\. \d+):", pages["masked"])
    figures = pages["masked"].partition("<b>age</b>")[2].partition("</figure>")[0]
    assert not set(re.findall(r"<title>up to ([^:]*):", figures)) & set(edges)
    answers = {told: page.partition("<b>prediction</b>")[2].partition("</figure>")[0] for told, page in pages.items()}
    assert ">yes<" in answers["named"]
    assert "no. 1" in answers["masked"]
    assert not re.search(r">(yes|no)<", answers["masked"])


def test_an_older_partition_leaves_the_status_alone(answer, monitor, root):
    for day in ("2026-01-06", "2026-01-05"):
        answer(day)
        monitor(day)
    assert read_json(root / "status" / "monitoring.json")["partition_key"] == "2026-01-06"
    assert (root / LATEST_REPORT).read_text(encoding="utf-8") == (root / "reports" / "2026-01-06.html").read_text(encoding="utf-8")
    assert (root / "reports" / "2026-01-05.html").exists()


def test_what_is_estimated_and_how_the_service_fared_is_told(sandbox, shop, answer, monitor, root):
    write_json(root / "health" / "2026-01-05" / "server.json", {"status_200": 198, "status_422": 2, "within_0.01": 200, "seconds": 0.2})
    answer("2026-01-05")
    page = _page_with(sandbox, shop, monitor, root, {"metric": "roc_auc", "value": 0.81, "low": 0.74, "high": 0.88})
    assert "roc_auc 0.810 (0.740 to 0.880)" in page
    assert "200 requests, 99 of 100 within 10 ms; 0 failed, 2 were refused" in page
    assert "the newest partition of <i>labelled</i> is this one" in page


def _page_with(sandbox, shop, monitor, root, guess):
    """The page of the day where performance was estimated so."""
    monitor("2026-01-05")
    [path] = (root / "runs").rglob("measure/result.json")
    result = read_json(path)
    write_json(path, {**result, "outputs": {**result["outputs"], "estimated": guess}})
    from pipelines_lib.jobs import report

    report.main(sandbox.stage("report", shop, "2026-01-05"))
    return (root / "reports" / "2026-01-05.html").read_text(encoding="utf-8")


def test_the_page_says_how_far_to_trust_estimates(answer, monitor, root):
    tables = Tables(root)
    guesses = {"2026-01-04": (0.85, 0.8, 0.92), "2026-01-06": (0.5, 0.4, 0.6), "2026-01-07": None}
    for day, guess in guesses.items():
        answer(day, wrong=10)
        monitor(day)
        rows = tables.read("performance", [day]).drop_columns(["partition_key"])
        [true] = rows.to_pylist()
        if guess is not None:
            value, low, high = guess
            estimate = {**true, "row_id": "estimated", "value": value, "low": low, "high": high}
            tables.write("performance", day, pa.Table.from_pylist([estimate, {**true, "value": 0.9}], schema=rows.schema))
    monitor("2026-01-08")
    page = (root / "reports" / "2026-01-08.html").read_text(encoding="utf-8")
    assert "in 1 of 2 partitions whose labels have come (50%)" in page
    assert "off by 0.225 on average" in page
    assert "How far to trust" not in (root / "reports" / "2026-01-04.html").read_text(encoding="utf-8"), "nothing was estimated then"


def test_a_day_without_requests_has_a_page_too(monitor, root):
    monitor("2026-01-05")
    assert "Nothing was answered" in (root / "reports" / "2026-01-05.html").read_text(encoding="utf-8")


def test_values_from_outside_are_text_never_markup():
    evil = "<script>alert(1)</script>\"'&"
    profiles = [profile_columns({"x": [evil, f"{evil}2", *"abcdefghijklm"]}, {"x": "string"}).columns["x"] for _ in range(2)]
    svg = chart(*profiles)
    assert "<script" not in svg
    ElementTree.fromstring(svg)


@pytest.mark.parametrize("values", [[], [None], [1.0], [-1e308, 1e308], [0.0] * 50 + [1e-320], list(range(1000))])
def test_a_chart_of_anything_is_well_formed(values):
    one, other = (profile_columns({"x": v}, {"x": "number"}).columns["x"] for v in (values, [3.0, 4.0]))
    for pair in ((one, other), (other, one), (one, one)):
        svg = chart(*pair)
        assert svg == "" or ElementTree.fromstring(svg) is not None
        assert "nan" not in svg
        assert "inf" not in svg


@pytest.mark.parametrize("values", [[], [None, None], [1.0], [0.0, None, 0.0], [-1e9, 1e9], [None, 2.0, 3.0, None, 5.0]])
def test_a_timeline_of_anything_is_well_formed(values):
    labels = [f"<{place}>" for place in range(len(values))]
    svg = timeline(labels, [Line(name="&", style="one", values=values, ends=[(0.0, None)] * len(values))], bounds={"<b>": 0.5}, marks={})
    assert (svg == "") == (not any(value is not None for value in values))
    if svg:
        ElementTree.fromstring(svg)
        assert svg.count("<circle") == sum(value is not None for value in values)
        assert "nan" not in svg
