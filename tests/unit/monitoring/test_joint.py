import numpy as np
import pytest

from pipelines_lib.monitoring.drift import compare
from pipelines_lib.monitoring.encoding import MISSING, Encoder
from pipelines_lib.monitoring.joint import _cross_fitted, joint_drift, separation
from pipelines_lib.monitoring.sketch import profile_columns

TYPES = {"a": "number", "b": "number", "c": "number", "kind": "string", "said": "text"}


def rows(rng, n, *, together=0.0):
    a = rng.normal(size=n)
    return {
        "a": a,
        "b": together * a + np.sqrt(1 - together**2) * rng.normal(size=n),
        "c": rng.lognormal(size=n),
        "kind": rng.choice(["x", "y", "z"], n).tolist(),
        "said": rng.choice(["good day", "bad day", None], n).tolist(),
    }


@pytest.fixture(scope="module")
def profile():
    return profile_columns(rows(np.random.default_rng(0), 5000), TYPES)


def spread(profile, columns):
    encoder = Encoder(profile, [*TYPES])
    return encoder.spread(encoder.encode(columns, len(columns["a"])))


def test_columns_that_move_together_are_seen_where_no_single_one_has_moved(profile):
    rng = np.random.default_rng(1)
    then, now = rows(rng, 400), rows(rng, 400, together=0.95)
    assert not any(drift.drifted for drift in compare(profile, profile_columns(now, TYPES), 0.2))
    found = joint_drift(spread(profile, then), spread(profile, now), 0.2, n_reference=5000, n_now=400)
    assert found.drifted
    assert found.auc > 0.65
    assert found.effect_lower < found.effect < found.effect_upper


def test_quiet_windows_stay_within_the_noise(profile):
    rng = np.random.default_rng(2)
    then = spread(profile, rows(rng, 300))
    windows = [separation(then, spread(profile, rows(rng, 100))) for _ in range(40)]
    assert np.mean([auc for auc, _, _ in windows]) == pytest.approx(0.5, abs=0.02)
    assert np.std([auc for auc, _, _ in windows]) < 1.25 * windows[0][1]
    assert sum(joint_drift(then, spread(profile, rows(rng, 100)), 0.2, n_reference=300, n_now=100).drifted for _ in range(20)) <= 1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_what_the_others_predict_of_a_fold_solves_their_normal_equations(scale):
    rng = np.random.default_rng(4)
    rows, target, folds = scale * rng.normal(size=(60, 4)), rng.normal(size=60), np.arange(60) % 5
    rows[1] = rows[0]
    kernel = rows @ rows.T
    found = _cross_fitted(kernel, folds, target)
    for fold in range(5):
        known, asked = folds != fold, folds == fold
        inner = kernel[np.ix_(known, known)]
        learned = np.linalg.solve(inner + np.trace(inner) / len(inner) * np.eye(len(inner)), target[known])
        np.testing.assert_allclose(found[asked], kernel[np.ix_(asked, known)] @ learned, atol=1e-6)


def test_rows_that_are_all_alike_are_told_apart_by_nothing():
    auc, _, _ = separation(np.ones((50, 3)), np.ones((60, 3)))
    assert auc == 0.5


def test_too_few_rows_say_nothing(profile):
    rng = np.random.default_rng(3)
    few = spread(profile, rows(rng, 30))
    assert joint_drift(few, few, 0.2, n_reference=30, n_now=30) is None
    assert joint_drift(few[:, :0], few[:, :0], 0.2, n_reference=90, n_now=90) is None


def test_codes_are_ranks_and_places_and_hold_no_value(profile):
    encoder = Encoder(profile, [*TYPES])
    columns = {"a": [-1e300, 0.0, 1e300, None], "kind": ["x", "never seen", None, "y"], "said": ["good day", "", None, "a b"]}
    codes = encoder.encode(columns, 4)
    assert encoder.names == ["a", "b", "c", "kind", "said", "said", "said"]
    assert codes[:, 0].tolist() == [0, pytest.approx(127, abs=5), 253, MISSING]
    assert codes[:, 1].tolist() == [MISSING] * 4, "a column that nobody sent"
    assert codes[:, 3].tolist()[1:3] == [3, MISSING]
    assert codes[2, 4:].tolist() == [MISSING] * 3
    assert codes[1, 6] == MISSING, "no word, no region"
    wide = encoder.spread(codes)
    assert wide.shape == (4, 3 * 6 + 5 + 2 * 6 + len(profile.columns["said"].clusters.counts) + 2)
    np.testing.assert_allclose(wide.sum(axis=1), 7)
    assert encoder.spread(codes, [True, *[False] * 6]).shape == (4, 6)
