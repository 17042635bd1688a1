import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.labelling import votes as module
from pipelines_lib.data.labelling.votes import Votes, aggregate, figures, vote, voted
from pipelines_lib.errors import ConfigError

COLUMNS = {name: {"type": "string"} for name in ("f", "g", "h")}


@pytest.fixture
def asked(make_use_case):
    """Returns `asked(**rules)`: a use case whose three functions vote what stands in the columns f, g and h."""

    def make(**rules):
        rules = {"functions": ["f", "g", "h"], "classes": ["spam", "ham"], **rules}
        return make_use_case(columns=COLUMNS, label={"rules": rules, "positive": "spam"}, split={"by": "row"})

    return make


FUNCTIONS = {name: lambda rows, name=name: rows[name] for name in COLUMNS}


def table(rows):
    return pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(COLUMNS)})


def outcome(use_case, *batches):
    """[(label, confidence)] of each row."""
    tables = [table(rows) for rows in batches]
    cast = vote(tables, use_case, FUNCTIONS)
    done = pa.concat_tables(voted(tables, cast, aggregate(cast, use_case)))
    return list(zip(done["label"].to_pylist(), done["label_confidence"].to_pylist(), strict=True))


S, H = "spam", "ham"


@pytest.mark.parametrize(
    ("rules", "row", "expected"),
    [
        ({}, (S, S, H), (S, 2 / 3)),
        ({}, (S, None, None), (S, 1.0)),
        ({}, (S, H, None), (None, 0.5)),
        ({}, (None, None, None), (None, None)),
        ({"min_votes": 2}, (S, None, None), (None, 1.0)),
        ({"min_votes": 2}, (S, S, None), (S, 1.0)),
        ({"min_agreement": 0.7}, (S, S, H), (None, 2 / 3)),
        ({"min_agreement": 1.0}, (H, H, H), (H, 1.0)),
    ],
)
def test_a_majority(asked, rules, row, expected):
    assert outcome(asked(**rules), [row]) == [expected]


ROW = st.tuples(*[st.sampled_from([S, H, None])] * 3)


def test_neither_order_nor_cut_of_the_rows_matters_to_a_majority(asked):
    use_case = asked()

    @given(st.lists(ROW, max_size=20), st.randoms(use_true_random=False), st.integers(0, 20))
    def holds(rows, random, cut):
        place = random.sample(range(len(rows)), len(rows))
        shuffled = [rows[i] for i in place]
        whole = outcome(use_case, rows)

        assert outcome(use_case, shuffled[:cut], shuffled[cut:]) == [whole[i] for i in place]

    holds()


def test_nor_to_dawid_and_skene(asked):
    _, rows = simulated(80, (0.9, 0.8, 0.7))
    use_case = asked(aggregate="dawid_skene")

    assert outcome(use_case, rows[::-1][:33], rows[::-1][33:]) == outcome(use_case, rows)[::-1]


def simulated(n, accuracies, silent=0.2, seed=0):
    """(truth [n], votes [n] of names): functions err independently, each with its own accuracy."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    said = [np.where(rng.random(n) < a, truth, ~truth) for a in accuracies]
    quiet = rng.random((len(accuracies), n)) < silent
    rows = [tuple(None if quiet[f, i] else (S if said[f][i] else H) for f in range(len(accuracies))) for i in range(n)]
    return np.where(truth, S, H), rows


def test_dawid_and_skene_find_out_who_is_right(asked):
    """One function is nearly always right, two little better than a coin: the majority follows the two, the model does not."""
    truth, rows = simulated(4000, (0.95, 0.65, 0.65))
    use_case = asked(aggregate="dawid_skene")
    cast = vote([table(rows)], use_case, FUNCTIONS)
    aggregated = aggregate(cast, use_case)
    estimated = figures(cast, aggregated, use_case)
    by_model = np.array([label or "" for label in aggregated.labels.take(pa.array(cast.of_rows)).to_pylist()])
    by_majority = np.array([label or "" for label, _ in outcome(asked(), rows)])
    unanimous = np.array([len({v for v in row if v}) < 2 for row in rows])

    assert [estimated[name]["estimated_accuracy"] for name in "fgh"] == pytest.approx([0.95, 0.65, 0.65], abs=0.06)
    assert (by_model == truth)[~unanimous].mean() > (by_majority == truth)[~unanimous].mean() + 0.15


def test_where_nobody_is_silent_the_probabilities_are_crowd_kits(asked):
    import warnings

    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    _, rows = simulated(400, (0.95, 0.9, 0.85), silent=0)
    long = pd.DataFrame(
        [(i, f, v) for i, row in enumerate(rows) for f, v in zip("fgh", row, strict=True)], columns=["task", "worker", "label"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = DawidSkene(n_iter=500, tol=0).fit_predict_proba(long)[S].sort_index().to_numpy()
    spam = np.array([confidence if label == S else 1 - confidence for label, confidence in outcome(asked(aggregate="dawid_skene"), rows)])

    assert np.abs(spam - expected).max() < 0.01


def test_functions_that_know_one_class_alone_are_heard(asked):
    """f speaks for spam, g for ham, h for both and is often wrong: whether f and g speak is all that they say."""
    rng = np.random.default_rng(1)
    truth = rng.random(3000) < 0.4
    f = np.where(rng.random(3000) < np.where(truth, 0.6, 0.03), S, "")
    g = np.where(rng.random(3000) < np.where(truth, 0.05, 0.7), H, "")
    h = np.where((rng.random(3000) < 0.7) == truth, S, H)
    rows = [tuple(v or None for v in row) for row in zip(f.tolist(), g.tolist(), h.tolist(), strict=True)]
    use_case = asked(aggregate="dawid_skene")
    cast = vote([table(rows)], use_case, FUNCTIONS)
    aggregated = aggregate(cast, use_case)
    label = np.array([one or "" for one in aggregated.labels.take(pa.array(cast.of_rows)).to_pylist()])
    best_there_is = {combination: max(counts) for combination, counts in _by_combination(rows, truth).items()}

    # No rule that sees the votes alone can do better than the commoner class of each combination.
    assert (label == np.where(truth, S, H)).sum() > 0.98 * sum(best_there_is.values())
    assert aggregated.accuracy == pytest.approx([0.93, 0.955, 0.7], abs=0.04)


def _by_combination(rows, truth):
    counts = {}
    for row, spam in zip(rows, truth, strict=True):
        counts.setdefault(row, [0, 0])[int(spam)] += 1
    return counts


def test_many_rows_are_fitted_in_proportion(asked, monkeypatch):
    _, rows = simulated(4000, (0.9, 0.8, 0.7))
    use_case = asked(aggregate="dawid_skene")
    exact = outcome(use_case, rows)
    monkeypatch.setattr(module, "_FITTED_TASKS", 1000)
    fewer = outcome(use_case, rows)

    assert np.mean([a == b for (a, _), (b, _) in zip(exact, fewer, strict=True)]) > 0.99
    assert max(abs(a - b) for (_, a), (_, b) in zip(exact, fewer, strict=True) if a is not None) < 0.05


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 100))
def test_representatives_are_as_many_as_asked_for_and_in_proportion(counts, at_most):
    counts = np.array(counts, np.int64)
    found = module._representatives(counts, at_most)

    assert found.sum() == min(counts.sum(), at_most)
    assert (np.abs(found - counts * (found.sum() / max(1, counts.sum()))) < 1).all()


@pytest.mark.parametrize("how", ["majority", "dawid_skene"])
def test_no_rows_and_no_votes(asked, how):
    assert outcome(asked(aggregate=how), []) == []
    assert outcome(asked(aggregate=how), [(None, None, None)] * 2) == [(None, None)] * 2


def test_a_function_that_never_speaks_leaves_the_others_their_say(asked):
    _, rows = simulated(200, (0.9, 0.9, 0.9), silent=0)
    muted = [(a, b, None) for a, b, _ in rows]

    agreed = [label == a for (label, _), (a, b, _) in zip(outcome(asked(aggregate="dawid_skene"), muted), muted, strict=True) if a == b]
    assert agreed
    assert all(agreed)


def test_what_is_told_of_the_functions(asked):
    rows = [(S, S, None), (S, H, None), (S, None, None), (None, None, None)]
    use_case = asked()
    cast = vote([table(rows)], use_case, FUNCTIONS)

    assert figures(cast, aggregate(cast, use_case), use_case) == {
        "f": {"coverage": 0.75, "overlaps": 0.5, "conflicts": 0.25},
        "g": {"coverage": 0.5, "overlaps": 0.5, "conflicts": 0.25},
        "h": {"coverage": 0.0, "overlaps": 0.0, "conflicts": 0.0},
    }


def broken(rows):
    raise KeyError("ada@example.com")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (broken, r"test_votes.py:\d+: labelling function f failed with KeyError"),
        (lambda rows: None, "returned NoneType and not a vote for each row"),
        (lambda rows: ["spam"], "returned 1 votes for 2 rows"),
        (lambda rows: ["spam", "eggs"], "does not list for 1 of 2 rows; the classes are spam, ham"),
        (lambda rows: [1, 2], "something else than texts"),
        (lambda rows: pc.equal(rows["f"], "spam"), "does not list for 2 of 2 rows"),
    ],
)
def test_a_function_that_does_not_vote_is_told_without_what_it_saw(asked, function, says):
    with pytest.raises(ConfigError, match=says) as caught:
        vote([table([(S, S, S)] * 2)], asked(), FUNCTIONS | {"f": function})
    assert "ada@" not in str(caught.value)
    assert "eggs" not in str(caught.value)


def test_a_function_may_return_arrow_or_a_list(asked):
    functions = FUNCTIONS | {"f": lambda rows: rows["f"].combine_chunks(), "g": lambda rows: rows["g"].to_pylist()}

    assert vote([table([(S, H, None)])], asked(), functions).combinations.tolist() == [[0, 1, -1]]


def test_votes_of_many_classes(make_use_case):
    classes = [f"c{i}" for i in range(77)]
    label = {"rules": {"functions": ["f", "g", "h"], "classes": classes}}
    gate = {"metric": "accuracy", "floor": 0.1}
    use_case = make_use_case(task="multiclass", columns=COLUMNS, label=label, split={"by": "row"}, gate=gate)

    assert outcome(use_case, [("c76", "c76", "c0"), ("c1", "c2", "c3")]) == [("c76", 2 / 3), (None, 1 / 3)]


def test_votes_are_kept_as_combinations(asked):
    cast = vote([table([(S, S, S), (H, None, None)]), table([(S, S, S)])], asked(), FUNCTIONS)

    assert isinstance(cast, Votes)
    assert (cast.combinations.tolist(), cast.counts.tolist(), cast.of_rows.tolist()) == ([[0, 0, 0], [1, -1, -1]], [2, 1], [0, 1, 0])
