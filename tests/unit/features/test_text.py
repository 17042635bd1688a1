"""What counts of a text."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.features.text import text_grams, token_id, tokens

texts = st.text(st.characters(exclude_categories=())) | st.text("ab 你好é")
limits = st.integers(1, 40)


def test_grams_are_words_then_pairs_then_runs_of_three_letters():
    assert text_grams("My card", 99) == ["my", "card", "my card", " <my", " my>", " <ca", " car", " ard", " rd>"]


def test_chinese_grams_are_characters_and_their_pairs():
    assert text_grams("退款99元", 99) == ["退", "款", "99", "元", "退 款", "款 99", "99 元", " <99", " 99>"]


@given(texts, limits)
def test_grams_are_distinct_begin_with_the_words_and_keep_their_order_at_any_limit(text, limit):
    found = text_grams(text, limit)
    assert len(found) == len(set(found)) <= limit
    assert found == text_grams(text, 10 * limit + 1000)[:limit]
    words = list(dict.fromkeys(tokens(text, 256)))[:limit]
    assert found[: len(words)] == words


@given(texts)
def test_a_word_is_taken_for_no_pair_and_no_piece(text):
    words = set(tokens(text, 100))
    assert all(" " in gram for gram in text_grams(text, 1000) if gram not in words)
    assert not any(" " in word for word in words)


@given(texts, st.integers(2, 2**15))
def test_an_id_is_within_the_buckets_and_never_padding(text, buckets):
    assert 1 <= token_id(text, buckets, "note") < buckets
