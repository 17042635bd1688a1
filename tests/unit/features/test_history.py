"""Features of the past: what a loop over the rows would find, and nothing of the present or the future."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.errors import DataError
from pipelines_lib.features.history import Past, history

START = dt.datetime(2026, 1, 1)
PAST = Past(entity="user", time="at", within=dt.timedelta(minutes=10), kind="event", kinds=("click",), positive="buy", item="item")
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", None]),
        st.one_of(st.none(), st.integers(0, 30)),
        st.sampled_from(["view", "click", "buy", None]),
        st.sampled_from(["x", "y", "z", None]),
    ),
    max_size=25,
)


def table(events) -> pa.Table:
    user, at, event, item = (list(column) for column in zip(*events, strict=True)) if events else ([], [], [], [])
    times = [None if minute is None else START + dt.timedelta(minutes=minute) for minute in at]
    return pa.table(
        {
            "user": pa.array(user, pa.string()),
            "at": pa.array(times, pa.timestamp("us")),
            "event": pa.array(event, pa.string()),
            "item": pa.array(item, pa.string()),
        }
    )


def slowly(events, row, known_after: int = 0) -> dict:
    """The features of one row, as one would say them."""
    user, now = row[0], row[1]
    before = [] if user is None or now is None else [e for e in events if e[0] == user and e[1] is not None and now - 10 <= e[1] < now]
    known = [e for e in before if e[1] + known_after < now]
    return {
        "n_before": len(before),
        "since_last": 60.0 * (now - max(e[1] for e in before)) if before else None,
        "n_click": sum(e[2] == "click" for e in known),
        "share_buy": sum(e[2] == "buy" for e in known) / len(known) if known else None,
        "n_items": len({e[3] for e in before} - {None}),
    }


@given(EVENTS, EVENTS, st.integers(0, 12))
def test_it_is_what_a_loop_finds(events, rows, known_after):
    past = Past(**{**vars(PAST), "known_after": dt.timedelta(minutes=known_after)})
    found = history(table(events), table(rows), past).to_pylist()
    assert found == [slowly(events, row, known_after) for row in rows]


@given(EVENTS, st.data())
def test_neither_the_future_nor_the_row_itself_has_a_say(events, data):
    rows = table(events)
    whole = history(rows, rows, PAST).to_pylist()
    for place, (_, now, _, _) in enumerate(events):
        if now is None:
            continue
        # Whatever happened then or later, to whomever, is drawn anew; the row's own kind and item among it.
        other = data.draw(
            st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(now, 40), st.just("buy"), st.just("q")), max_size=4)
        )
        earlier = [event for event in events if event[1] is not None and event[1] < now]
        assert history(table([*earlier, *other]), rows.slice(place, 1), PAST).to_pylist() == [whole[place]]


@given(EVENTS, st.randoms())
def test_the_order_and_the_chunks_of_the_events_make_no_difference(events, random):
    rows = table(events)
    shuffled = random.sample(events, len(events))
    half = len(events) // 2
    chunked = pa.concat_tables([table(shuffled[:half]), table(shuffled[half:])])
    assert history(chunked, rows, PAST).equals(history(rows, rows, PAST))


def test_only_what_is_asked_for_is_made_and_a_request_needs_no_more_than_who_and_when():
    events = table([("ann", 0, "buy", "x"), ("ann", 5, "view", "y")])
    request = events.select(["user", "at"]).slice(1, 1)
    assert history(events, request, Past(entity="user", time="at", within=dt.timedelta(days=1))).to_pylist() == [
        {"n_before": 1, "since_last": 300.0}
    ]
    assert history(events, request, PAST)["share_buy"].to_pylist() == [1.0]


def test_an_event_just_at_the_windows_edge_counts():
    events = table([("ann", 0, "buy", "x")])
    rows = table([("ann", 10, None, None), ("ann", 11, None, None)])
    assert history(events, rows, PAST)["n_before"].to_pylist() == [1, 0]


def test_a_hundred_thousand_events_are_no_loop():
    random = np.random.default_rng(0)
    n = 100_000
    at = pa.array(random.integers(0, 10**12, n), pa.int64()).cast(pa.timestamp("us"))
    users, items = (pa.array(random.integers(0, 500, n)).cast(pa.string()) for _ in range(2))
    events = pa.table({"user": users, "at": at, "event": pa.array(random.choice(["view", "buy"], n)), "item": items})
    found = history(events, events, Past(**{**vars(PAST), "within": dt.timedelta(days=3)}))
    assert 0 < found["n_items"].to_numpy().max() <= found["n_before"].to_numpy().max()


@pytest.mark.parametrize(
    ("events", "says"),
    [
        (table([]).drop_columns(["item"]), "the events have no column 'item'; they have user, at, event"),
        (table([]).set_column(1, "at", pa.array([], pa.string())), "the column 'at' of the events is string; make it timestamps"),
    ],
)
def test_what_can_not_be_told_is_refused(events, says):
    with pytest.raises(DataError, match=says):
        history(events, table([]), PAST)
