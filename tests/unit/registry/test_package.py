"""A model package: whole or refused."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines_lib.errors import DataError
from pipelines_lib.registry.package import FILES, Package, predicted

spec = importlib.util.spec_from_file_location("tiny_packages", Path(__file__).with_name("packages.py"))
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


@pytest.fixture
def folder(tmp_path):
    return tiny.write(tmp_path / "packages")


def test_a_package_answers_with_probabilities(folder):
    package = Package.open(folder)
    scores = package.predict({"x": [0.0, 1.0, None, 2.0], "unknown": [1, 2, 3, 4]})
    assert (scores.dtype, scores.shape) == (np.float32, (4, 2))
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(scores[1], [0.5, 0.5], atol=1e-6)
    np.testing.assert_array_equal(scores[1], scores[2])
    assert scores[3, package.manifest.positive_index] > 0.5
    assert package.holdout().row_ids == ("a",)
    assert package.profile() == "{}\n"


def test_no_rows_give_no_scores(folder):
    assert Package.open(folder).predict({"x": []}).shape == (0, 2)


def test_writing_the_same_again_changes_nothing(folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert tiny.write(folder.parent) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_other_content_lands_elsewhere_and_a_damaged_folder_is_mended(folder):
    assert tiny.write(folder.parent, slope=2.0) != folder
    (folder / "model.onnx").write_bytes(b"")
    assert tiny.write(folder.parent) == folder
    Package.open(folder)


def test_a_run_id_can_not_lead_out_of_the_folder(tmp_path):
    folder = tiny.write(tmp_path / "packages", name="../../etc/manual__2026-01-01T00:00:00+00:00")
    assert folder.parent == tmp_path / "packages"
    Package.open(folder)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(DataError, match=f"{name} was changed"):
        Package.open(folder)


@pytest.mark.parametrize("name", FILES)
def test_an_absent_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match="absent"):
        Package.open(folder)


def test_an_unknown_file_is_refused(folder):
    (folder / "model.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataError, match=r"model\.pkl"):
        Package.open(folder)


def test_a_link_is_refused_even_to_the_same_bytes(folder, tmp_path):
    shutil.move(folder / "card.md", tmp_path / "card.md")
    (folder / "card.md").symlink_to(tmp_path / "card.md")
    with pytest.raises(DataError, match="not a plain file"):
        Package.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].update({"../../secret": "0" * 64}),
        lambda m: m["files"].pop("card.md"),
        lambda m: m.update(command="rm"),
        lambda m: m.pop("classes"),
        lambda m: m.update(format=3),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="manifest"):
        Package.open(folder)


def test_a_manifest_that_is_no_more_what_was_written_is_refused_and_written_anew(folder, tmp_path):
    forged = json.loads((folder / "manifest.json").read_text()) | {"operating_point": 0.999, "classes": ["yes", "no"]}
    (folder / "manifest.json").write_text(json.dumps(forged))
    with pytest.raises(DataError, match=r"manifest\.json was changed"):
        Package.open(folder)
    assert tiny.write(tmp_path / "packages") == folder
    assert Package.open(folder).manifest.operating_point != 0.999


def test_a_package_whose_name_has_the_shorter_hash_opens_as_before(folder):
    old = folder.rename(folder.with_name("run-0123456789ab"))
    assert Package.open(old).holdout().row_ids == ("a",)


def test_an_incomplete_folder_is_refused(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Package.open(folder)


def test_a_graph_that_is_none_is_refused(tmp_path):
    folder = Package.write(tmp_path, "run", tiny.manifest(), tiny.files() | {"model.onnx": b"not a graph"})
    with pytest.raises(DataError, match="onnxruntime"):
        Package.open(folder)


def test_predictions_and_scores_of_each_task():
    scores = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    binary = tiny.manifest()
    assert predicted(binary, scores)[0] == ["no", "yes"]
    np.testing.assert_allclose(predicted(binary, scores)[1], [0.1, 0.8], rtol=1e-6)
    assert not tiny.manifest().decision.keeps_scores, "one score says both"
    assert tiny.manifest(task="multiclass", positive=None).decision.keeps_scores
    assert predicted(tiny.manifest(operating_point=0.05), scores)[0] == ["yes", "yes"]
    assert predicted(tiny.manifest(operating_point=0.81), scores)[0] == ["no", "no"]
    assert predicted(tiny.manifest(operating_point=0.05, positive="no"), scores)[0] == ["no", "no"]
    multiclass = tiny.manifest(task="multiclass", positive=None)
    np.testing.assert_allclose(predicted(multiclass, scores)[1], [0.9, 0.8], rtol=1e-6)
    regression = tiny.manifest(task="regression", classes=(), positive=None)
    assert predicted(regression, np.array([[2.5]], np.float32))[0] == [2.5]
    multilabel = tiny.manifest(task="multilabel", classes=("a", "b"), positive=None, separator="; ")
    several = np.array([[0.9, 0.5], [0.2, 0.8], [0.1, 0.3]], np.float32)
    assert predicted(multilabel, several)[0] == ["a; b", "b", ""]
    np.testing.assert_allclose(predicted(multilabel, several)[1], [0.9, 0.8, 0.3], rtol=1e-6)


def test_a_package_of_format_1_opens_and_predicts_the_likelier_class_as_it_always_did(tmp_path):
    folder = Package.write(tmp_path, "run", tiny.manifest(operating_point=0.05, format=1), tiny.files())
    manifest = Package.open(folder).manifest
    assert manifest.decision.operating_point is None
    assert predicted(manifest, np.array([[0.9, 0.1]], np.float32))[0] == ["no"]
