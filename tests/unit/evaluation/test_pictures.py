"""Pictures and page of an evaluation: well formed, and of the right thing."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from pipelines_lib.contracts import GateResult
from pipelines_lib.evaluation.evidence import Evidence, Measured
from pipelines_lib.evaluation.metrics import Truth
from pipelines_lib.evaluation.page import evaluation_page
from pipelines_lib.evaluation.pictures import bars, losses, of_answers, parts, scale

EVIDENCE = Evidence(n_rows=100, metric=0.8, comparison=None, champion=None, incomparable=None, champion_end=None)


def binary(n=500):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, n)
    chance = np.clip(0.3 + 0.4 * labels + 0.2 * random.normal(size=n), 0, 1)
    return Truth(labels, ("<bad>", "good"), 1), np.stack([1 - chance, chance], axis=1).astype(np.float32)


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_binary_task_has_its_curves_and_its_confusion():
    truth, scores = binary()
    found = of_answers(truth, scores, 0.5, private=False)
    assert list(found) == ["roc", "precision_recall", "calibration", "confusion"]
    said = scores[:, 1] >= 0.5
    counts = [f"{int(((truth.labels == true) & (said == answer)).sum())}" for true in (0, 1) for answer in (0, 1)]
    assert [text for text in texts(found["confusion"]) if text.isdigit()] == counts
    assert "<bad>" in texts(found["confusion"])


def test_the_curve_of_a_perfect_ranking_goes_through_the_corner():
    labels = np.array([0] * 50 + [1] * 50)
    chance = np.linspace(0, 1, 100)
    found = of_answers(Truth(labels, ("n", "y"), 1), np.stack([1 - chance, chance], 1).astype(np.float32), 0.5, private=False)
    [curve] = ET.fromstring(found["roc"]).iter("{http://www.w3.org/2000/svg}polyline")
    assert "44.0,8.0" in curve.get("points").split(), "rate 1 without a false positive"


def test_classes_about_people_are_numbered():
    found = of_answers(*binary(), 0.5, private=True)
    assert "no. 1" in texts(found["confusion"])
    assert "bad" not in "".join(found.values())


@pytest.mark.parametrize("n_classes", [3, 13])
def test_of_many_classes_there_is_no_confusion_to_be_read(n_classes):
    truth = Truth(np.arange(100) % n_classes, tuple(f"c{i}" for i in range(n_classes)))
    scores = np.random.default_rng(0).dirichlet(np.ones(n_classes), 100).astype(np.float32)
    assert list(of_answers(truth, scores, None, private=False)) == ["calibration", "confusion"][: 2 if n_classes == 3 else 1]


def test_a_regression_is_shown_by_its_predictions():
    labels = np.linspace(-5, 5, 200)
    found = of_answers(Truth(labels, ()), labels.astype(np.float32)[:, None], None, private=False)
    assert list(found) == ["predicted"]
    ET.fromstring(found["predicted"])


@pytest.mark.parametrize("case", ["empty", "one class", "several"])
def test_what_can_not_be_drawn_is_left_out(case):
    truth, scores = {
        "empty": (Truth(np.zeros(0, int), ("n", "y"), 1), np.zeros((0, 2), np.float32)),
        "one class": (Truth(np.ones(3, int), ("n", "y"), 1), np.full((3, 2), 0.5, np.float32)),
        "several": (Truth(np.ones((3, 2), bool), ("a", "b")), np.ones((3, 2), np.float32)),
    }[case]
    assert "roc" not in of_answers(truth, scores, 0.5, private=False)


def test_parts_are_shown_with_their_interval_and_floor():
    found = [
        Measured(of="town", name="town <Bonn>", n_rows=60, figure=0.8, lower=0.7, upper=0.9),
        Measured(of="town", name="town Köln", n_rows=50, figure=0.6),
        Measured(of="town", name="town Ulm", n_rows=3, figure=None),
    ]
    svg = parts(found, {"town": 0.5}, "accuracy")
    assert texts(svg) == ["town <Bonn>", "town Köln", "0.5", "0.9"]
    titles = [element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["town <Bonn>: 0.8 of 60 rows, 0.7 … 0.9; floor 0.5", "town Köln: 0.6 of 50 rows; floor 0.5"]
    [floor, _] = re.findall(r'class="g" d="M([\d.]+) ', svg)
    assert float(floor) == 130, "the lowest of all figures stands on the left"
    ET.fromstring(parts([], {}, "accuracy"))


def test_bars_and_losses_are_well_formed():
    assert texts(bars({"<a>": 0.3, "b": -0.1}, "loss")) == ["<a>", "0.3", "b", "-0.1"]
    assert bars({}, "loss").startswith("<svg")
    history = [{"epoch": 1, "train_loss": 0.9, "validation_loss": 0.8}, {"epoch": 2, "train_loss": 0.5, "validation_loss": float("nan")}]
    ET.fromstring(losses(history))


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.00139, 0.00154, ("0.00139", "0.00154")),
        (121_034, 127_001, ("121,000", "127,000")),
        (0.81211, 0.81242, ("0.8121", "0.8124")),  # in three digits there would be no difference
        (-1.25e-7, 3.4e9, ("-1.25e-7", "3.4e9")),
        (-1e-300, 0, ("-1e-300", "0")),
        (5, 5, ("5", "5")),
    ],
)
def test_a_scale_tells_its_ends_apart_in_few_letters(low, high, told):
    assert scale(low, high) == told


@pytest.mark.parametrize("high", [0.00142, 1e-7, 123_456, -0.00123])
def test_no_label_of_a_scale_is_cut_off_on_the_left(high):
    svg = losses([{"epoch": 1, "train_loss": high}, {"epoch": 2, "train_loss": high / 2}])
    ends = [
        (float(t.get("x")), t.text) for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text") if t.get("text-anchor") == "end"
    ]
    assert len(ends) >= 3
    assert all(x >= 7 * len(text) for x, text in ends)


def test_columns_too_narrow_for_names_are_numbered_as_the_rows_are():
    truth = Truth(np.arange(100) % 12, tuple(f"class_{i}" for i in range(12)))
    found = texts(of_answers(truth, np.eye(12, dtype=np.float32)[np.arange(100) % 12], None, private=False)["confusion"])
    assert {"1 class_0", "12 class_11", "12"} < set(found)


def test_the_page_has_every_gate_with_its_reason_and_escapes_what_comes_from_data():
    gates = [
        GateResult(gate="floor", verdict="hold", figure=0.5, bound=0.7, reason="<b>auc</b> 0.5"),
        GateResult(gate="rows", verdict="pass", figure=100, bound=50, reason="100 rows"),
    ]
    evidence = EVIDENCE.model_copy(
        update={"slices": (Measured(of="town", name="town <Bonn>", n_rows=50, figure=0.5, lower=0.4, upper=0.6),)}
    )
    page = evaluation_page(
        "Shop & co", metric="roc_auc", evidence=evidence, figures={"roc_auc": 0.5, "f1": None}, pictures={"roc": "<svg/>"}, gates=gates
    )
    for part in (
        "1 of 2 gates hold",
        "Shop &amp; co",
        "&lt;b&gt;auc&lt;/b&gt;",
        "town &lt;Bonn&gt;",
        "0.4000 … 0.6000",
        "roc_auc (decides)",
        "<svg/>",
    ):
        assert part in page
    assert "<script" not in page
    assert "No verdict yet" in evaluation_page("Shop", metric="roc_auc", evidence=EVIDENCE, figures={}, pictures={})
