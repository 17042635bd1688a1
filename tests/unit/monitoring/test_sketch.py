import json

import datasketches
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.errors import DataError
from pipelines_lib.monitoring.sketch import DataProfile, merge_profiles, profile_columns
from pipelines_lib.monitoring.summaries import MAX_CATEGORIES, MAX_POINTS, Categories, Distinct, Quantiles

TYPES = {"amount": "number", "country": "string", "opinion": "text", "member": "boolean"}

numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32), st.integers(-5, 5).map(float))
rows = st.lists(
    st.tuples(
        numbers, st.one_of(st.none(), st.sampled_from("abc"), st.text(max_size=3)), st.one_of(st.none(), st.text(max_size=9)), st.booleans()
    ),
    max_size=40,
)


def profile(rows):
    columns = list(zip(*rows, strict=True)) or [()] * 4
    return profile_columns(dict(zip(TYPES, columns, strict=True)), TYPES)


def counts(profile):
    return {
        name: (c.n_rows, c.n_missing, {k: q.n for k, q in c.quantiles.items()}, c.categories and c.categories.n)
        for name, c in profile.columns.items()
    }


@given(rows, rows, rows)
def test_merge_is_associative_and_agrees_with_profiling_all_rows_at_once(a, b, c):
    left = profile(a).merge(profile(b)).merge(profile(c))
    right = profile(a).merge(profile(b).merge(profile(c)))
    assert left.n_rows == right.n_rows == len(a) + len(b) + len(c)
    assert counts(left) == counts(right) == counts(profile(a + b + c))
    assert left.to_json() == profile(a + b + c).to_json(), "below the cap nothing is lost"


@given(rows)
def test_json_round_trip_changes_nothing(rows):
    there = profile(rows)
    back = DataProfile.from_json(there.to_json())
    assert back.to_json() == there.to_json()
    value, again = there.columns["amount"].quantiles["value"], back.columns["amount"].quantiles["value"]
    if value.n:
        assert [value.quantile(r) for r in (0, 0.1, 0.5, 1)] == [again.quantile(r) for r in (0, 0.1, 0.5, 1)]


def test_values_of_a_small_profile():
    amounts = pa.chunked_array([[3.0, None, float("nan")], [1.0, 3.0]])
    columns = {
        "amount": amounts,
        "country": ["de", None, "cn", "de", "de"],
        "opinion": ["so so", "好", None, "", "a b c"],
        "member": [True] * 5,
    }
    made = profile_columns(columns, TYPES, scores=np.array([0.1, 0.2, 0.3, 0.4, 0.5]), predictions=["yes", "no", "no", "no", "no"])
    assert made.n_rows == 5
    assert (made.columns["amount"].n_missing, made.columns["country"].n_missing, made.columns["opinion"].n_missing) == (2, 1, 1)
    assert made.columns["amount"].missing_share == pytest.approx(0.4)
    value = made.columns["amount"].quantiles["value"]
    assert (value.low, value.high, value.n, value.quantile(0.3), value.quantile(0.5)) == (1.0, 3.0, 3, 1.0, 3.0)
    assert value.counts([1.0, 2.0]).tolist() == [1.0, 0.0, 2.0]
    assert made.columns["country"].categories.counts == {"de": 3, "cn": 1}
    assert made.columns["member"].categories.counts == {"true": 5}
    assert made.columns["opinion"].quantiles["words"].high == 3
    assert made.columns["opinion"].quantiles["characters"].low == 0
    assert (made.columns["score"].kind, made.columns["prediction"].kind) == ("prediction", "prediction")
    assert made.columns["prediction"].categories.counts == {"no": 4, "yes": 1}


def test_pandas_columns_are_read_and_left_alone():
    frame = pd.DataFrame({"amount": [3.0, 1.0, None], "country": ["de", None, "de"]})
    made = profile_columns({name: frame[name].to_numpy() for name in frame}, {"amount": "number", "country": "string"})
    assert (made.columns["amount"].n_missing, made.columns["country"].n_missing) == (1, 1)
    assert frame["amount"].tolist()[:2] == [3.0, 1.0]


def test_equal_rows_give_equal_bytes_whatever_their_number():
    values = np.random.default_rng(1).lognormal(size=50_000)
    first = profile_columns({"amount": values}, {"amount": "number"})
    assert first.to_json() == profile_columns({"amount": values[::-1]}, {"amount": "number"}).to_json()
    assert len(first.to_json()) < 8_000


def worst_rank_error(values, quantile):
    ordered = np.sort(values)
    ranks = np.linspace(0.005, 0.995, 199)
    return max(abs(np.searchsorted(ordered, quantile(r), side="right") / len(values) - r) for r in ranks)


@pytest.mark.parametrize("values", [np.random.default_rng(2).lognormal(size=100_000), np.random.default_rng(3).normal(size=777)])
def test_ranks_are_as_exact_as_documented_and_more_so_than_kll(values):
    ours = worst_rank_error(values, Quantiles.of(np.sort(values)).quantile)
    assert ours <= 1 / MAX_POINTS + 1 / len(values)
    sketch = datasketches.kll_doubles_sketch(200)
    sketch.update(values.copy())
    assert ours <= max(worst_rank_error(values, sketch.get_quantile), 0.01)


def test_a_window_of_thirty_partitions_merges_within_the_bound():
    parts = [np.random.default_rng(seed).normal(seed / 10, size=2000) for seed in range(30)]
    merged = merge_profiles([profile_columns({"x": part}, {"x": "number"}) for part in parts])
    assert worst_rank_error(np.concatenate(parts), merged.columns["x"].quantiles["value"].quantile) <= 2 / MAX_POINTS
    assert merged.columns["x"].quantiles["value"].weights.sum() == pytest.approx(60_000)


def test_a_heavy_value_keeps_its_weight_when_compacted():
    values = np.sort(np.concatenate([np.zeros(6000), np.random.default_rng(4).normal(5, size=4000)]))
    assert Quantiles.of(values).counts([0.0])[0] == pytest.approx(6000, abs=10_000 / MAX_POINTS)


def test_rare_categories_beyond_the_cap_are_summed():
    values = ["often"] * 5 + [f"c{i:05d}" for i in range(MAX_CATEGORIES + 10)]
    made = Categories.of(values)
    assert len(made.counts) == MAX_CATEGORIES
    assert made.counts["often"] == 5
    assert (made.n, made.n_other) == (len(values), 11)


def test_distinct_values_are_counted_across_merges():
    values = np.random.default_rng(6).integers(0, 40_000, 300_000).astype(float)
    parts = [Distinct.of_numbers(part) for part in np.array_split(values, 7)]
    assert Distinct.merged(parts).to_json() == Distinct.of_numbers(values).to_json()
    assert Distinct.of_numbers(np.sort(values)).to_json() == Distinct.of_numbers(values).to_json()
    assert Distinct.of_numbers(values).n == pytest.approx(len(np.unique(values)), rel=0.3)
    assert Distinct.of_numbers(np.array([0.0, -0.0, 1.5, 1.5])).n == 2
    assert Distinct.of_texts(["a", "b", "a"]).n == 2
    assert Distinct.of_texts([]).n == 0


def test_a_text_is_known_by_tokens_and_clusters_and_no_word_is_kept():
    made = profile_columns({"x": ["Zebra crossing", "zebra", "", None]}, {"x": "text"})
    column = made.columns["x"]
    assert (column.tokens.n, column.clusters.n, column.distinct.n) == (2, 2, 3)
    assert column.tokens.sums.sum() == pytest.approx(2)
    assert sorted(column.tokens.sums[column.tokens.sums > 0].tolist()) == [0.5, 1.5]
    assert "zebra" not in made.to_json().lower()


def test_a_profile_of_the_first_format_is_read_and_has_no_tokens():
    document = json.loads(profile_columns({"x": ["a b"], "y": [1.0]}, {"x": "text", "y": "number"}).to_json()) | {"format": 1}
    for column in document["columns"].values():
        for name in ("distinct", "tokens", "clusters"):
            del column[name]
    old = DataProfile.from_json(json.dumps(document))
    assert (old.columns["x"].tokens, old.columns["y"].distinct) == (None, None)
    assert old.merge(old).columns["x"].tokens is None


def test_what_does_not_fit_is_said():
    with pytest.raises(DataError, match="same number of rows"):
        profile_columns({"a": [1], "b": [1, 2]}, {"a": "number", "b": "number"})
    with pytest.raises(DataError, match=r"column .a..*declare it as string"):
        profile_columns({"a": ["blue"]}, {"a": "number"})
    with pytest.raises(DataError, match="different columns"):
        profile_columns({"a": [1]}, {"a": "number"}).merge(profile_columns({"a": ["1"]}, {"a": "string"}))
    for text in ("", "[]", "{}", '{"format": 99}', '{"format": 1, "n_rows": 0, "columns": {"a": 3}}'):
        with pytest.raises(DataError, match=r"data profile|format"):
            DataProfile.from_json(text)
