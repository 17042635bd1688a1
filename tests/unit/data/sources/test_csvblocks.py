import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.sources.csvblocks import csv_batches
from pipelines_lib.errors import DataError

PIECES = st.sampled_from(
    ["a", "1", ",", '"', "\n", "é", '"",', '"\n', ',"', "\r", "\r\n", "b,c\n", '"x\ny",z\n', "x,1\n", 'p"q,5"\n', '"q","r"\n']
)


def read(data: bytes, size: int, names: tuple[str, ...] = ("a", "b"), **given):
    """(rows, their numbers, unreadable records), read in blocks of `size` bytes."""
    rows, numbers, unreadable = [], [], []
    for batch in csv_batches("x.csv", (data[at : at + size] for at in range(0, len(data), size)), ",", list(names), **given):
        rows += [tuple(row.values()) for row in batch.rows.to_pylist()]
        numbers += batch.numbers.to_pylist()
        unreadable += [(record.number, record.text) for record in batch.unreadable]
    return rows, numbers, unreadable


@given(pieces=st.lists(PIECES, min_size=1, max_size=30), size=st.integers(1, 9))
def test_where_blocks_are_cut_makes_no_difference(pieces, size):
    data = "".join(pieces).encode()

    assert read(data, size) == read(data, len(data))


@given(table=st.lists(st.lists(st.text('a1," \n\ré', max_size=4), min_size=2, max_size=2), min_size=1, max_size=8), size=st.integers(1, 9))
def test_what_is_written_by_the_rules_is_read_in_any_blocks(table, size):
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(table)

    rows, numbers, unreadable = read(text.getvalue().encode(), size)

    assert rows == [tuple(cell or None for cell in row) for row in table]
    assert numbers == list(range(1, len(table) + 1))
    assert unreadable == []


@given(pieces=st.lists(PIECES, min_size=1, max_size=30), size=st.integers(1, 9))
def test_every_record_has_one_number(pieces, size):
    _, numbers, unreadable = read("".join(pieces).encode(), size, first_number=5)

    assert numbers == sorted(numbers)
    all_numbers = sorted([*numbers, *(number for number, _ in unreadable)])
    assert all_numbers == list(range(5, 5 + len(all_numbers)))


def test_a_quote_that_does_not_close_for_long_is_a_stray_one():
    sound = "1,2\n" * 200
    data = f'{sound}3,"x\n{sound}'.encode()

    rows, numbers, unreadable = read(data, 64, longest=100)

    assert (len(rows), unreadable) == (400, [(201, '3,"x')])
    assert 201 not in numbers


@pytest.mark.parametrize("size", [7, 1000])
def test_a_line_may_be_longer_than_a_block_and_than_a_quoted_cell(size):
    long = "x" * 500

    assert read(f'1,{long}\n2,"{long}"\n3,4\n'.encode(), size, longest=100)[0] == [("1", long), ("2", long), ("3", "4")]


def test_a_mark_within_the_text_is_text():
    assert read("1,2\n\ufeff3,4\n".encode(), 4)[0] == [("1", "2"), ("\ufeff3", "4")]


def test_a_record_that_ends_with_blank_lines_in_an_open_quote_costs_its_line():
    assert read(b'1,2\n3,"x\n\n\n', 100) == ([("1", "2")], [1], [(2, '3,"x')])


def test_a_record_that_never_ends_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("pipelines_lib.data.sources.stream.LONGEST", 1000)

    with pytest.raises(DataError, match=r"^x\.csv: the record that begins at number 2 is longer"):
        read(b"1,2\n" + b"x" * 2000, 100, longest=100)
