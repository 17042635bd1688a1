"""Worse inputs, and inputs that matter."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.evaluation.probes import UNSEEN, Probe, importance, milliseconds, robustness
from pipelines_lib.use_case.gate import Robustness


class ByIncome:
    """Answers by the income, or by the town where there is none; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def predict(self, columns):
        self.asked.append(columns)
        income = np.asarray(columns["income"], float)
        bad = np.where(np.isnan(income), 0.5, 1 / (1 + np.exp(3 * income)))
        return np.stack([bad, 1 - bad], axis=1).astype(np.float32)


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    income = random.normal(size=2000)
    return pa.table(
        {
            "row_id": [f"r{i}" for i in range(2000)],
            "income": income,
            "age": random.integers(18, 80, 2000),
            "member": random.integers(0, 2, 2000).astype(bool),
            "town": random.choice(["Bonn", "Köln"], 2000).tolist(),
            "label": np.where(income + random.normal(size=2000) < 0, "bad", "good").tolist(),
        }
    )


def probe(use_case, rows, scorer=None, n=1000):
    return Probe(use_case, rows, scorer or ByIncome(), ("bad", "good"), operating_point=None, rows=n)


def test_each_kind_of_worse_input_is_measured_and_seeded(make_credit, rows):
    asked = Robustness(loss=0.1, noise=1.0, missing=0.3, shifted=0.5)
    found = robustness(probe(make_credit(), rows), asked)
    assert [(kind.name, kind.n_rows) for kind in found] == [
        ("noise (1)", 1000),
        ("missing values (0.3)", 1000),
        ("shifted categories (0.5)", 1000),
    ]
    assert found[0].figure > 0.05
    assert found[1].figure > 0.02
    assert found[2].figure == 0, "it does not look at towns"
    assert robustness(probe(make_credit(), rows), asked) == found


def test_of_lists_whole_ones_are_tried(make_credit, rows):
    ranking = make_credit(training={"model": {"type": "ranking", "user": ["age"], "item": ["town"]}}, gate={"metric": "ndcg", "floor": 0.1})
    sizes = np.arange(2000) % 97
    offered = rows.append_column("who", pa.array([f"u{size}" for size in sizes]))
    tried = probe(ranking, offered, n=300).rows
    assert 300 <= tried.num_rows < 300 + 21
    whole = {entry["values"]: entry["counts"] for entry in offered["who"].value_counts().to_pylist()}
    assert all(whole[entry["values"]] == entry["counts"] for entry in tried["who"].value_counts().to_pylist())
    assert len(tried["who"].unique()) >= 14
    assert importance(probe(ranking, offered, n=300))["income"] > 0.02, "the order within lists is there to be spoilt"


def test_inputs_are_worse_by_as_much_as_was_asked(make_credit, rows):
    scorer = ByIncome()
    robustness(probe(make_credit(), rows, scorer), Robustness(loss=0.1, noise=0.5, missing=0.25, shifted=0.75))
    clean, noisy, with_gaps, shifted = scorer.asked
    change = np.asarray(noisy["income"]) - np.asarray(clean["income"])
    assert np.std(change) == pytest.approx(0.5 * np.std(clean["income"]), rel=0.1)
    assert np.allclose(noisy["age"], np.round(noisy["age"])), "ages stay whole"
    assert np.isnan(with_gaps["income"]).mean() == pytest.approx(0.25, abs=0.05)
    towns = list(shifted["town"])
    assert towns.count(UNSEEN) / len(towns) == pytest.approx(0.75, abs=0.05)


def test_what_is_not_asked_for_or_not_there_is_not_tried(make_credit, rows):
    assert robustness(probe(make_credit(), rows), Robustness(loss=0.1, noise=0, missing=0, shifted=0.1))[0].of == "shifted categories"
    columns = {"income": {"type": "number"}, "outcome": {"type": "string", "role": "label"}}
    numbers = make_credit(columns=columns, split={"by": "row"})
    assert [kind.of for kind in robustness(probe(numbers, rows), Robustness(loss=0.1))] == ["noise", "missing values"]


def test_no_gap_is_tried_that_the_service_would_refuse(make_credit, rows):
    columns = {
        "income": {"type": "number", "nullable": False},
        "age": {"type": "integer"},
        "outcome": {"type": "string", "role": "label"},
    }
    scorer = ByIncome()
    robustness(probe(make_credit(columns=columns, split={"by": "row"}), rows, scorer), Robustness(loss=0.1, noise=0, missing=0.5))
    clean, with_gaps = scorer.asked
    assert np.array_equal(with_gaps["income"], clean["income"])
    assert np.isnan(np.asarray(with_gaps["age"], float)).any()


def test_the_input_that_decides_is_the_important_one(make_credit, rows):
    found = importance(probe(make_credit(), rows))
    assert next(iter(found)) == "income"
    assert found["income"] > 0.2
    assert found["age"] == found["town"] == 0


def test_a_loss_is_a_loss_whichever_way_is_better(make_credit, rows):
    by_loss = make_credit(gate={"metric": "log_loss", "floor": 0.6})
    assert robustness(probe(by_loss, rows), Robustness(loss=0.1, noise=1.0))[0].figure > 0


def test_one_row_is_timed(make_credit, rows):
    assert 0 < milliseconds(make_credit(), rows, ByIncome()) < 1000
    assert milliseconds(make_credit(), rows.slice(0, 0), ByIncome()) is None
