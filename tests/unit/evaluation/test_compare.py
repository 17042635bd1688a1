"""The paired bootstrap: paired, seeded, honest about its coverage."""

import numpy as np
import pytest
from scipy import stats

from pipelines_lib.evaluation import compare as module
from pipelines_lib.evaluation.compare import compare, standard_error, t_quantile
from pipelines_lib.evaluation.metrics import Truth

SETTINGS = {"confidence": 0.95, "resamples": 400, "seed": 0}


def binary(n, seed, strength=1.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    return random, Truth(labels, ("no", "yes"), 1), labels * strength


def scores_of(logits):
    chance = 1 / (1 + np.exp(-logits))
    return np.stack([1 - chance, chance], axis=1).astype(np.float32)


def test_a_model_does_not_differ_from_itself():
    random, truth, signal = binary(200, 0)
    scores = scores_of(signal + random.normal(size=200))
    found = compare("roc_auc", truth, scores, scores, **SETTINGS)
    assert (found.difference, found.lower, found.upper) == (0, 0, 0)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "log_loss", "accuracy"])
def test_better_is_positive_whatever_the_metric(metric):
    random, truth, signal = binary(500, 1)
    good, bad = scores_of(4 * signal - 2 + random.normal(size=500)), scores_of(random.normal(size=500))
    found = compare(metric, truth, good, bad, **SETTINGS)
    assert 0 < found.lower < found.difference < found.upper
    turned = compare(metric, truth, bad, good, **SETTINGS)
    assert (turned.difference, turned.lower, turned.upper) == pytest.approx((-found.difference, -found.upper, -found.lower))


def test_the_same_seed_gives_the_same_interval_whatever_the_block(monkeypatch):
    random, truth, signal = binary(100, 2)
    pair = [scores_of(signal + random.normal(size=100)) for _ in range(2)]
    first = compare("roc_auc", truth, *pair, **SETTINGS)
    monkeypatch.setattr(module, "_BLOCK", 700)
    assert compare("roc_auc", truth, *pair, **SETTINGS) == first
    assert compare("roc_auc", truth, *pair, **(SETTINGS | {"seed": 1})) != first


def test_pairing_makes_the_interval_narrow():
    random, truth, signal = binary(400, 3)
    common = signal + random.normal(size=400)
    near = [scores_of(common + random.normal(scale=0.05, size=400)) for _ in range(2)]
    apart = [scores_of(signal + random.normal(size=400)) for _ in range(2)]
    narrow, wide = (compare("roc_auc", truth, *pair, **SETTINGS) for pair in (near, apart))
    assert narrow.upper - narrow.lower < 0.2 * (wide.upper - wide.lower)


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        labels = random.normal(size=150)
        first, second = (labels + random.normal(scale=s, size=150) for s in (1.0, 1.2))
        found = compare("mae", Truth(labels, ()), *(x.astype(np.float32)[:, None] for x in (first, second)), **SETTINGS)
        true = (1.2 - 1.0) * np.sqrt(2 / np.pi)
        hits += found.lower <= true <= found.upper
    # 95 % of 200 is 190, give or take 3.1.
    assert 180 <= hits <= 199


def test_rows_of_an_entity_are_drawn_together():
    # Twenty entities of twenty equal rows: there are twenty observations, not four hundred.
    random = np.random.default_rng(4)
    groups = np.repeat(np.arange(20), 20)
    labels = random.normal(size=20)[groups]
    errors = random.normal(size=(2, 20))[:, groups]
    pair = [(labels + error).astype(np.float32)[:, None] for error in errors]
    by_row = compare("mae", Truth(labels, ()), *pair, **SETTINGS)
    by_entity = compare("mae", Truth(labels, ()), *pair, **SETTINGS, groups=groups)
    assert by_entity.difference == by_row.difference
    assert (by_entity.upper - by_entity.lower) / (by_row.upper - by_row.lower) == pytest.approx(np.sqrt(20), rel=0.25)


def test_the_standard_error_is_that_of_the_mean_of_so_many_entities():
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(100), 4)
    errors = np.abs(random.normal(size=100))
    forecasts = errors[groups].astype(np.float32)[:, None]
    truth = Truth(np.zeros(400), ())
    assert standard_error("mae", truth, forecasts, resamples=1000) == pytest.approx(errors.std() / np.sqrt(400), rel=0.1)
    assert standard_error("mae", truth, forecasts, groups=groups, resamples=1000) == pytest.approx(errors.std() / np.sqrt(100), rel=0.1)
    assert standard_error("mae", Truth(np.zeros(0), ()), forecasts[:0]) is None
    one_class = Truth(np.zeros(400, np.int64), ("no", "yes"), 1)
    assert standard_error("roc_auc", one_class, scores_of(random.normal(size=400))) is None


def test_few_entities_seldom_prove_what_is_not_so():
    # Twenty entities, some of them far harder for one of two models that are equally good on the whole.
    better = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        groups = np.repeat(np.arange(20), 10)
        labels = random.normal(size=200)
        noise = np.exp(0.8 * random.normal(size=(2, 20)))[:, groups] * random.normal(size=(2, 200))
        found = compare("mae", Truth(labels, ()), *((labels + n).astype(np.float32)[:, None] for n in noise), **SETTINGS, groups=groups)
        better += found.lower > 0
    assert better <= 5


def test_fewer_than_twenty_owners_have_no_interval():
    random, truth, signal = binary(190, 5)
    pair = [scores_of(signal + random.normal(size=190)) for _ in range(2)]
    of_many, of_few = (compare("roc_auc", truth, *pair, **SETTINGS, groups=np.arange(190) // size) for size in (9, 10))
    assert (of_few.n_owners, of_few.lower, of_few.upper) == (19, None, None)
    assert of_many.n_owners == 22
    assert of_many.lower is not None


@pytest.mark.parametrize(("share", "freedom"), [(0.975, 19), (0.995, 19), (0.975, 100), (0.9995, 49)])
def test_students_quantile_is_that_of_scipy(share, freedom):
    assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=2e-3)


def test_too_few_rows_of_a_class_give_no_interval():
    labels = np.zeros(50, int)
    labels[0] = 1
    scores = scores_of(np.linspace(-1, 1, 50))
    found = compare("roc_auc", Truth(labels, ("no", "yes"), 1), scores, scores, **SETTINGS)
    assert (found.lower, found.upper) == (None, None)
