"""The items of a training's rows, and who has met which."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.errors import DataError
from pipelines_lib.registry import catalogue
from pipelines_lib.registry.catalogue import ITEMS, KNOWN, Catalogue

REF = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("2026-01-01",), n_rows=1, config_hash="c", content_hash="d")


class Batches(Snapshot):
    """A snapshot whose rows come three at a time."""

    def batches(self, names):
        for start in range(0, max(1, self.source.num_rows), 3):
            yield self.source.slice(start, 3).select(names)


def made(rows, **batches):
    """A catalogue of rows (user, item, price)."""
    users, items, prices = map(list, zip(*rows, strict=True)) if rows else ([], [], [])
    table = pa.table(
        {"who": pa.array(users, pa.string()), "product": pa.array(items, pa.string()), "price": pa.array(prices, pa.float64())}
    )
    return Catalogue.of(Batches(REF, table), user="who", item="product", columns=("price",))


def known(found, user):
    return {found.items["item"][place].as_py() for place in found.known(user).tolist()}


rows = st.lists(
    st.tuples(
        st.sampled_from([None, "u1", "u2", "u3"]), st.sampled_from([None, "a", "b", "c", "d"]), st.one_of(st.none(), st.floats(0, 9))
    ),
    max_size=12,
)


@given(rows)
def test_items_are_as_last_seen_and_each_user_has_met_what_his_rows_name(given):
    last = {item: price for _, item, price in given if item is not None}
    if not last:
        with pytest.raises(DataError, match=r"names an item in 'product' \(deployment\.recommend\.item\)"):
            made(given)
        return
    found = made(given)
    assert dict(zip(found.items["item"].to_pylist(), found.items["price"].to_pylist(), strict=True)) == last
    for user in ("u1", "u2", "u3", "nobody"):
        assert known(found, user) == {item for who, item, _ in given if who == user and item is not None}
    again = Catalogue.opened(found.files(), ["price"], "here")
    assert again.items.equals(found.items)
    np.testing.assert_array_equal(again.users, found.users)
    np.testing.assert_array_equal(again.met, found.met)
    assert again.files() == found.files()


def test_of_too_many_the_last_are_kept(monkeypatch):
    monkeypatch.setattr(catalogue, "MAX_ITEMS", 3)
    monkeypatch.setattr(catalogue, "MAX_MEETINGS", 2)
    found = made([("u1", "a", 1.0), ("u1", "b", 1.0), ("u2", "c", 1.0), ("u1", "a", 2.0), ("u1", "d", 1.0), ("u1", "d", 3.0)])
    assert found.items.to_pylist() == [{"item": "c", "price": 1.0}, {"item": "a", "price": 2.0}, {"item": "d", "price": 3.0}]
    assert (known(found, "u1"), known(found, "u2")) == ({"a", "d"}, set())


def test_the_files_name_no_user():
    data = made([("somebody", "a", 1.0)]).files()
    assert b"somebody" not in data[ITEMS] + data[KNOWN]


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files | {ITEMS: b"no arrow"},
        lambda files: files | {ITEMS: files[KNOWN]},
        lambda files: files | {KNOWN: files[ITEMS]},
        lambda files: files | {KNOWN: made([("u1", "a", 1.0), ("u1", "b", 1.0)]).files()[KNOWN]},
        lambda files: files | {KNOWN: files[KNOWN][:100]},
    ],
)
def test_what_is_no_catalogue_is_refused(change):
    with pytest.raises(DataError, match="here: "):
        Catalogue.opened(change(made([("u1", "a", 1.0)]).files()), ["price"], "here")
