"""What verify makes of answers; its way through a real service is in test_deploy.py."""

import pytest

from pipelines_lib.contracts import ModelRef
from pipelines_lib.errors import Held
from pipelines_lib.jobs import verify
from pipelines_lib.registry.package import Package
from pipelines_lib.serving import local

MODEL = ModelRef(name="shop", version=2, package="shop/packages/p", run_id="run")


@pytest.fixture
def package(tmp_path, make_package):
    root = tmp_path / "store" / "shop"
    return Package.open(root.parent / make_package(root))


def answers(package, monkeypatch, status=200, version="2", shift=0.0):
    def ask(port, path, document):
        assert document["parameters"] == {"log": False}
        columns = {tensor["name"]: tensor["data"] for tensor in document["inputs"]}
        scores = package.predict(columns) + shift
        return status, {
            "model_version": version, "error": "no", "outputs": [{"name": "scores", "shape": list(scores.shape), "data": scores.ravel().tolist()}],
        }  # fmt: skip

    monkeypatch.setattr(local, "ask", ask)


@pytest.fixture
def verdict(package, sandbox, make_use_case):
    """Returns `verdict()`: the figures of a comparison. Raises `Held`."""

    def compare():
        figures = verify._compare(package, MODEL, 1, "shop")
        verify._hold_if_wrong(sandbox.stage("verify", make_use_case(), "2026-01-05"), MODEL, figures)
        return figures

    return compare


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"status": 500}, "21 of 21 requests failed (status 500: no)"),
        ({"version": "1"}, "21 of 21 requests failed (version 1 answered)"),
        ({"shift": 0.5}, "its answers differ from the evaluation's by 0.5"),
        ({"shift": float("nan")}, "its answers differ from the evaluation's by nan"),
    ],
)
def test_a_wrong_answer_holds(package, monkeypatch, verdict, how, why):
    answers(package, monkeypatch, **how)
    with pytest.raises(Held) as held:
        verdict()
    assert why in held.value.reason


def test_right_answers_pass(package, monkeypatch, verdict):
    answers(package, monkeypatch)
    figures = verdict()
    assert (figures["rows"], figures["requests"], figures["errors"]) == (20, 21, 0)
