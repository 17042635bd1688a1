import gzip
import json
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines_lib.data.sources import jsonlines
from pipelines_lib.data.sources.stream import File
from pipelines_lib.errors import DataError


def read(folder, data, name="file.jsonl"):
    """(names, rows, numbers, unreadable) of a file with this content."""
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with tempfile.TemporaryFile() as kept:
        records = jsonlines.records(File(str(path), path), kept)
        batches = list(records.batches)
    return (
        records.names,
        [row for batch in batches for row in batch.rows.to_pylist()],
        [number for batch in batches for number in batch.numbers.to_pylist()],
        [(record.number, record.text, record.why) for batch in batches for record in batch.unreadable],
    )


def test_values_stay_as_they_are_written(tmp_path):
    line = '{"big": 123456789012345678901234567890, "price": 1.50, "exp": 1E5, "yes": true, "no": null, "empty": "", "text": "1.50", "odd": NaN}'

    assert read(tmp_path, line)[1] == [
        {
            "big": "123456789012345678901234567890",
            "price": "1.50",
            "exp": "1E5",
            "yes": "true",
            "no": None,
            "empty": None,
            "text": "1.50",
            "odd": "NaN",
        }
    ]


def test_objects_are_taken_apart_and_lists_are_json(tmp_path):
    line = '{"user": {"name": "Ann", "home": {"town": "Köln"}}, "items": [{"n": 10000000000000000.10, "t": "ä"}, [], "x", false, null]}'

    [row] = read(tmp_path, line)[1]

    assert row == {"user.name": "Ann", "user.home.town": "Köln", "items": '[{"n":10000000000000000.10,"t":"ä"},[],"x",false,null]'}


def test_a_list_may_be_nested_as_deeply_as_it_can_be_read(tmp_path):
    deep = "[" * 700 + "]" * 700

    assert read(tmp_path, f'{{"a": {deep}}}')[1] == [{"a": deep}]


def test_a_key_that_comes_late_is_a_column_from_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(File.blocks, "__defaults__", (64,))
    lines = [f'{{"a": {i}}}' for i in range(40)] + ['{"b": "x", "A": 1}']

    names, rows, numbers, _ = read(tmp_path, "\n".join(lines))

    assert names == ["a", "b", "A_2"]
    assert rows[0] == {"a": "0", "b": None, "A_2": None}
    assert rows[-1] == {"a": None, "b": "x", "A_2": "1"}
    assert numbers == list(range(1, 42))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[1, 2]", "another kind of value"),
        ("17", "another kind of value"),
        ('{"a": 1', "Expecting ',' delimiter"),
        ('{"a": 1}, {"a": 2}', "Extra data"),
        ("ragged", "Expecting value"),
        ('{"a.b": 1, "a": {"b": 2}}', "a field stands there twice"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
    ],
)
def test_a_line_that_is_no_object_is_kept(tmp_path, line, why):
    _, rows, numbers, [(number, text, said)] = read(tmp_path, f'{{"a": 1}}\r\n\r\n{line}\r\n{{"a": 2}}\n')

    assert ([row["a"] for row in rows], numbers) == (["1", "2"], [1, 4])
    assert (number, text) == (3, line)
    assert why in said


def test_lines_that_make_objects_only_together_are_told(tmp_path):
    _, rows, _, unreadable = read(tmp_path, '{"z": 0}\n{"a": 1\n"b": 2}\n{"c": 3}, {"d": 4}\n')

    assert rows == [{"z": "0"}]
    assert [number for number, _, _ in unreadable] == [2, 3, 4]


def test_what_holds_no_objects_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none of its first 2 lines is a JSON object.*source\.format"):
        read(tmp_path, "a,b\n1,2\n")
    with pytest.raises(DataError, match="the file is empty"):
        read(tmp_path, "\n")


@pytest.mark.parametrize("data", [b'{"a": "\0"}\n', b"\xff\xfe\x00\xd8", bytes(range(128, 256))])
def test_an_encoding_that_no_setting_declares_is_mended_in_the_file(tmp_path, data):
    with pytest.raises(DataError, match=r"; write the file in UTF-8$"):
        read(tmp_path, data)


def test_packed_and_marked_files(tmp_path):
    assert read(tmp_path, gzip.compress(b'\xef\xbb\xbf{"a": 1}\n'))[1] == [{"a": "1"}]


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(docs=st.lists(st.dictionaries(st.sampled_from("abcd"), VALUES | st.lists(VALUES, max_size=2), min_size=1), min_size=1, max_size=8))
def test_what_was_written_is_read(tmp_path, docs):
    names, rows, numbers, unreadable = read(tmp_path, "".join(json.dumps(doc) + "\n" for doc in docs))

    assert unreadable == []
    assert numbers == list(range(1, len(docs) + 1))
    assert set(names) == {key for doc in docs for key in doc}
    for doc, row in zip(docs, rows, strict=True):
        for name in names:
            value = doc.get(name)
            said = row[name]
            assert (value or None if isinstance(value, str) else value) == (
                said if isinstance(value, str) or said is None else json.loads(said)
            )


def test_a_line_that_never_ends_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines_lib.data.sources.stream.LONGEST", 1000)

    with pytest.raises(DataError, match=r"/file\.jsonl: the record that begins at number 2 is longer"):
        read(tmp_path, '{"a": 1}\n' + "x" * 2000)


@pytest.mark.parametrize("other", ["", '{"a": [1]}\n'])
def test_half_a_surrogate_pair_is_no_text_and_costs_its_line_alone(tmp_path, other):
    whole, half = r'{"a": "\ud83d\ude00"}', r'{"a": "\ud83d"}'
    _, rows, numbers, unreadable = read(tmp_path, f"{whole}\n{half}\n{other}")

    assert rows[0] == {"a": "😀"}
    assert numbers[0] == 1
    assert unreadable == [(2, half, "no JSON object: half of a surrogate pair")]


def test_lines_that_are_broken_alike_have_one_reason(tmp_path):
    unreadable = read(tmp_path, '{"a": 1}\n{"a" 1}\n{"bb" 1}\n')[3]
    assert len({why for _, _, why in unreadable}) == 1
