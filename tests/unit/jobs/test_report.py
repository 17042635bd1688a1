import re
from xml.etree import ElementTree

import pytest

from pipelines_lib.monitoring.charts import chart
from pipelines_lib.monitoring.sketch import profile_columns
from pipelines_lib.store import read_json


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
    assert len(charts) == 4, "age, amount, prediction, score"
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
        "drifted": ["age", "amount", "prediction", "score"],
        "champion_version": 1,
        "performance": results["measure"].outputs["performance"],
        "report": "shop/reports/2026-01-05.html",
    }


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


def test_an_older_partition_leaves_the_status_alone(answer, monitor, root):
    for day in ("2026-01-06", "2026-01-05"):
        answer(day)
        monitor(day)
    assert read_json(root / "status" / "monitoring.json")["partition_key"] == "2026-01-06"
    assert (root / "reports" / "2026-01-05.html").exists()


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
