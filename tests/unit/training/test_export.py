"""The exported graph answers like the model."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training import export
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import TabularModel
from pipelines_lib.training.objective import ScoringModel
from pipelines_lib.use_case import Model

TYPES = {"x": "number", "colour": "string", "shape": "string", "note": "text"}
COLUMNS = {"x": [1.0, 2.0, 3.0], "colour": ["red", "red", "blue"], "shape": ["o", "o", "o"], "note": ["a b", "", "c 你好"]}


def scoring(types, n_outputs=3, label_scale=None, **more):
    transform = FeatureTransform.fit(COLUMNS, types, pieces=2, grams=True)
    torch.manual_seed(0)
    settings = Model(hidden=[8, 8, 4], embedding=4, dropout=0.5, **more)
    return transform, ScoringModel(TabularModel(Shape.of(transform, n_outputs), settings), label_scale)


@pytest.mark.parametrize("members", [1, 3])
def test_the_graph_is_one_file_takes_any_number_of_rows_and_gives_probabilities(members):
    transform, model = scoring(TYPES, members=members)
    data = export.to_onnx(model, transform.apply(COLUMNS))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert sorted(i.name for i in session.get_inputs()) == ["categorical", "numeric", "text"]
    for n in (0, 1, 2, 500):
        rows = {name: (values * n)[:n] for name, values in COLUMNS.items()}
        [scores] = session.run(["scores"], transform.apply(rows))
        assert (scores.shape, scores.dtype) == ((n, 3), np.float32)
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
        if n:
            expected = model(**{k: torch.from_numpy(v) for k, v in transform.apply(rows).items()}).detach().numpy()
            np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_regression_answers_in_the_labels_units():
    transform, model = scoring({"x": "number"}, n_outputs=1, label_scale=(5000.0, 200.0))
    data = export.to_onnx(model, transform.apply(COLUMNS))
    [scores] = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(["scores"], transform.apply(COLUMNS))
    assert ((scores > 3000) & (scores < 7000)).all()


def test_the_same_model_gives_the_same_bytes_and_no_paths():
    transform, model = scoring({"x": "number", "colour": "string"})
    first, second = (export.to_onnx(model, transform.apply(COLUMNS)) for _ in range(2))
    assert first == second
    assert b"site-packages" not in first
    assert not any(node.metadata_props or node.doc_string for node in onnx.load_from_string(first).graph.node)


def test_a_graph_that_answers_otherwise_is_not_let_out(monkeypatch):
    transform, model = scoring({"x": "number"})
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="do not deploy"):
        export.to_onnx(model, transform.apply(COLUMNS))


def test_text_without_words_and_text_with_padding_average_over_the_words_alone():
    transform = FeatureTransform.fit({"note": ["a b c d"]}, {"note": "text"})
    torch.manual_seed(0)
    model = TabularModel(Shape.of(transform, 2), Model(hidden=[4], embedding=2, dropout=0.0)).eval()
    once, twice, none = (model(text=torch.from_numpy(transform.apply({"note": [text]})["text"])) for text in ("a", "a a", ""))
    torch.testing.assert_close(once, twice)
    assert not torch.allclose(once, none)
