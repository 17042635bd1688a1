"""How a text is read."""

import numpy as np
import onnxruntime
import pytest
import torch

from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.export import to_onnx
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import TabularModel
from pipelines_lib.training.models.text import reader
from pipelines_lib.training.objective import ScoringModel
from pipelines_lib.use_case import Model

NOTES = ["a lost card", "card lost a", None, "我 的 卡 在 哪里", "", "where is my card"]


def made(text, **more):
    settings = Model(hidden=[8], embedding=2, dropout=0.3, text=text, **more)
    transform = FeatureTransform.fit({"note": NOTES}, {"note": "text"}, grams=text == "grams")
    torch.manual_seed(0)
    return transform, TabularModel(Shape.of(transform, 2), settings)


@pytest.mark.parametrize("text", ["words", "grams", "transformer"])
def test_a_text_is_read_alike_alone_and_among_others_and_as_a_graph(text):
    transform, model = made(text)
    arrays = transform.apply({"note": NOTES})
    scoring = ScoringModel(model.eval(), None)
    expected = scoring(text=torch.from_numpy(arrays["text"])).detach().numpy()
    assert np.isfinite(expected).all()
    session = onnxruntime.InferenceSession(to_onnx(scoring, arrays), providers=["CPUExecutionProvider"])
    for row in range(len(NOTES)):
        [alone] = session.run(["scores"], {"text": arrays["text"][row : row + 1]})
        np.testing.assert_allclose(alone[0], expected[row], atol=1e-6)


def test_the_order_of_words_counts_for_a_transformer_alone():
    for text, counts in (("words", False), ("transformer", True)):
        transform, model = made(text)
        first, second = model.eval()(text=torch.from_numpy(transform.apply({"note": NOTES[:2]})["text"]))
        assert torch.allclose(first, second, atol=1e-6) != counts


@pytest.mark.parametrize("text", ["words", "transformer"])
def test_a_text_without_a_word_says_nothing_and_gives_finite_gradients(text):
    torch.manual_seed(0)
    read = reader(64, 5, 8, Model(text=text, dropout=0.0, heads=2, layers=2))
    ids = torch.tensor([[0, 0, 0, 0, 0], [3, 4, 0, 0, 0]])
    found = read(ids)
    found.square().sum().backward()
    assert not found[0].any()
    assert found[1].any()
    assert all(torch.isfinite(parameter.grad).all() for parameter in read.parameters())


@pytest.mark.parametrize("text", ["words", "transformer"])
def test_what_stands_where_the_padding_is_looked_at_by_no_one(text):
    torch.manual_seed(0)
    read = reader(64, 5, 8, Model(text=text, heads=2)).eval()
    before = read(torch.tensor([[3, 4, 0, 0, 0]]))
    with torch.no_grad():
        read.tokens.weight[0] = 100.0
    torch.testing.assert_close(read(torch.tensor([[3, 4, 0, 0, 0]])), before)


def test_a_transformer_learns_an_order(fit):
    rng = np.random.default_rng(0)
    notes = [" ".join(rng.permutation(["card", "lost", "found"])) for _ in range(120)]
    labels = np.array([note.index("lost") < note.index("found") for note in notes], np.int64)
    transform = FeatureTransform.fit({"note": notes}, {"note": "text"})
    torch.manual_seed(0)
    model = TabularModel(Shape.of(transform, 2), Model(hidden=[8], embedding=2, dropout=0.0, text="transformer"))
    losses = fit(model, transform.apply({"note": notes}), labels, steps=80)
    assert losses[-1] < 0.1 < losses[0]
