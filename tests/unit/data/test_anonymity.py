"""k and l against a count by hand, whatever the batches."""

from collections import Counter, defaultdict

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.anonymity import Groups, held_because, k_anonymity

SCHEMA = pa.schema([("age", pa.int64()), ("zip", pa.string()), ("illness", pa.string())])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "age": st.sampled_from([None, 0, 18]),
            "zip": st.sampled_from([None, "10*", "20*"]),
            "illness": st.sampled_from([None, "flu", "gout", "cold"]),
        }
    ),
    max_size=30,
)


@given(ROWS, st.integers(2, 6), st.data())
def test_it_is_what_counting_by_hand_gives(rows, min_k, data):
    groups: dict[tuple, list] = defaultdict(list)
    for row in rows:
        groups[row["age"], row["zip"]].append(row["illness"])
    sizes = Counter({key: len(values) for key, values in groups.items()})
    cut = data.draw(st.integers(0, len(rows)))
    counted = Groups(["age", "zip"], ["illness"], min_k)
    for part in (rows[:cut], rows[cut:]):
        counted.add(pa.Table.from_pylist(part, SCHEMA))

    found = counted.figures()

    assert found == k_anonymity(pa.Table.from_pylist(rows, SCHEMA), ["age", "zip"], ["illness"], min_k)
    assert (found.k, found.n_groups, found.n_rows) == (min(sizes.values(), default=0), len(sizes), len(rows))
    assert found.n_below == sum(size for size in sizes.values() if size < min_k)
    if rows:
        assert found.l_diversity == {"illness": min(len(set(values) - {None}) for values in groups.values())}


def test_the_figures_in_words():
    rows = pa.Table.from_pylist([{"age": 18, "zip": "10*", "illness": "flu"}] * 6 + [{"age": 0, "zip": "10*", "illness": "gout"}], SCHEMA)

    told = k_anonymity(rows, ["age", "zip"], ["illness"]).sentence()

    assert (
        told
        == "k = 1: every row shares its quasi-identifiers with at least 0 others; 1 of 7 rows are in groups smaller than 5; l = 1 in illness"
    )


COLUMNS = {
    "age": {"type": "integer", "privacy": "quasi_identifier"},
    "gone": {"type": "string", "role": "other", "privacy": "quasi_identifier", "protect": "drop"},
    "salary": {"type": "number", "privacy": "sensitive"},
    "illness": {"type": "string", "role": "label", "privacy": "sensitive"},
}


def test_a_partition_is_held_where_the_use_case_says_so(make_use_case):
    changes = {"columns": COLUMNS, "label": {"column": "illness", "positive": "flu"}, "split": {"by": "row"}}
    reports, holds = make_use_case(**changes), make_use_case(**changes, privacy={"action": "hold", "min_k": 3})
    groups = Groups.of(holds)
    groups.add(pa.table({"age": [0, 0, 0, 18], "illness": ["flu"] * 4}))
    found = groups.figures()

    assert held_because(found, holds).startswith("1 of 4 rows agree in every quasi-identifier (age) with fewer than 2 others")
    assert held_because(found, reports) == ""
    assert found.l_diversity == {"illness": 1}
    assert Groups.of(make_use_case()) is None


@pytest.mark.parametrize("name", ["n_rows", "seen"])
def test_a_quasi_identifier_may_have_any_name_that_a_column_may_have(name):
    found = k_anonymity(pa.table({name: ["a", "a", "b"], "illness": ["flu", "cold", "flu"]}), [name], ["illness"])

    assert (found.k, found.n_rows, found.l_diversity) == (1, 3, {"illness": 1})
