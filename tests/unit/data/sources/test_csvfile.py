import csv
import gzip
import io
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines_lib.data.sources import csvfile
from pipelines_lib.data.sources.csvfile import detect, read
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Csv

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"


def write(folder: Path, data: bytes | str) -> Path:
    path = folder / "file.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def rows(file: csvfile.CsvFile) -> list[list[str | None]]:
    return [list(row.values()) for row in file.rows.to_pylist()]


def test_reads_what_excel_writes(tmp_path):
    file = read(write(tmp_path, "\ufeffa;b\r\n1;2,5\r\n;x\r\n"))

    assert file.csv == Csv(delimiter=";", encoding="utf-8-sig", header=True, skip=0)
    assert file.rows.column_names == ["a", "b"]
    assert rows(file) == [["1", "2,5"], [None, "x"]]
    assert file.numbers == [2, 3]


def test_line_ends_of_old_macs(tmp_path):
    assert rows(read(write(tmp_path, b"a,b\r1,2\r3,4\r"))) == [["1", "2"], ["3", "4"]]


def test_a_header_one_short_names_the_rows_as_r_does(tmp_path):
    file = read(write(tmp_path, "a,b\nx,1,2\ny,3,4\n"))

    assert file.rows.column_names == ["row_number", "a", "b"]
    assert rows(file) == [["x", "1", "2"], ["y", "3", "4"]]
    assert file.unreadable == []


def test_without_a_header_columns_are_counted(tmp_path):
    path = write(tmp_path, "7.4,0.7,5\n7.8,0.8,5\n")

    assert detect(path).header is False
    assert read(path, detect(path)).rows.column_names == ["c0", "c1", "c2"]
    assert read(path, detect(path)).numbers == [1, 2]


def test_names_are_made_unique_without_regard_to_case(tmp_path):
    assert read(write(tmp_path, "a,,A,a\n1,2,3,4\n")).rows.column_names == ["a", "c1", "A_2", "a_3"]


def test_ragged_records_are_kept_with_their_numbers(tmp_path):
    file = read(write(tmp_path, "a,b\n1,2\n3\n4,5,6\n\n7,8\n"))

    assert rows(file) == [["1", "2"], ["7", "8"]]
    assert [(record.number, record.text) for record in file.unreadable] == [(3, "3"), (4, "4,5,6")]
    assert file.numbers == [2, 5]


def test_a_quoted_cell_may_hold_lines_blank_ones_too(tmp_path):
    file = read(write(tmp_path, 'a,b\n1,"x\n\ny"\n2,z\n'))

    assert rows(file) == [["1", "x\n\ny"], ["2", "z"]]
    assert file.numbers == [2, 3]


@pytest.mark.parametrize("stray", ['3,"x', '"3,x'])
def test_a_stray_quote_costs_its_own_line_alone(tmp_path, stray):
    file = read(write(tmp_path, f'a,b\n1,2\n{stray}\n4,5\n6,"seven"\n8,9\n'))

    assert rows(file) == [["1", "2"], ["4", "5"], ["6", "seven"], ["8", "9"]]
    assert [record.text for record in file.unreadable] == [stray]


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "utf-16"])
def test_chinese_in_any_encoding(tmp_path, encoding):
    text = "行为,商品,说明\n" + "浏览,手机,这个用户今天看了一部手机但是没有购买\n点击,电视,这个用户今天点击了电视机的页面\n" * 40
    if encoding == "big5":
        text = text.translate(str.maketrans("为说浏览这个户没购买点击电视机页", "為說瀏覽這個戶沒購買點擊電視機頁"))

    assert read(write(tmp_path, text.encode(encoding))).rows.column_names == text.splitlines()[0].split(",")


def test_what_is_declared_wins(tmp_path):
    path = write(tmp_path, "a|b;c\n1|2;3\n".encode("utf-16-le"))

    file = read(path, Csv(delimiter="|", encoding="utf-16-le"))

    assert file.rows.column_names == ["a", "b;c"]


@pytest.mark.parametrize(
    ("data", "declared", "message"),
    [
        (b"", Csv(), "empty"),
        (b" \n", Csv(), "empty"),
        (b"\xef\xbb\xbf\n", Csv(), "empty"),
        ("\ufeff\r\n".encode("utf-16-le"), Csv(), "empty"),
        (
            b"a,b\n\xff,1\n",
            Csv(encoding="utf-8"),
            r"byte 4 is not utf-8, which is declared; set source\.csv\.encoding to what the file is in$",
        ),
        (b"a,b\n", Csv(encoding="latin-42"), "no encoding that Python knows"),
        (b"a,b\n1,\x00\n", Csv(), r"NUL.*; set source\.csv\.encoding to what the file is in$"),
        (b"a,b\n1\n2\n", Csv(), "none of its 2 records has the 2 cells"),
    ],
)
def test_what_is_no_csv_file_is_refused(tmp_path, data, declared, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, data), declared)


def test_a_header_alone_is_no_rows(tmp_path):
    file = read(write(tmp_path, "a,b\n"))

    assert (file.rows.num_rows, file.rows.column_names, file.unreadable) == (0, ["a", "b"], [])


CELLS = st.text("ab1,;\"'\n\r\t \x0b\x1c\u2028é中", max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(table=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=8), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_was_written_is_read(tmp_path, table, end):
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *table])

    file = read(write(tmp_path, text.getvalue()), Csv(delimiter=",", encoding="utf-8"))

    assert rows(file) == [[cell or None for cell in row] for row in table]
    assert file.unreadable == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(lines=st.lists(st.text('ab1," ', min_size=1, max_size=8), min_size=1, max_size=8))
def test_no_record_is_lost_whatever_the_quotes(tmp_path, lines):
    sound = [f"k{i},v{i}" for i in range(len(lines))]
    mixed = [line for pair in zip(lines, sound, strict=True) for line in pair]

    # Sound records before them, so that the file's width is no question.
    file = read(write(tmp_path, "\n".join(["a,b", *["1,2"] * 20, *mixed, ""])), Csv(delimiter=",", encoding="utf-8"))

    there = [cell for row in rows(file) for cell in row if cell] + [record.text for record in file.unreadable]
    # A cell that is quoted by the rules may hold other lines; nothing else may be missing.
    assert all(any(f"v{i}" in text for text in there) for i in range(len(lines)))
    numbers = sorted([*file.numbers, *(record.number for record in file.unreadable)])
    assert numbers == list(range(2, len(numbers) + 2))


@pytest.mark.skipif(not SHARED.exists(), reason=f"the folder of real data files, {SHARED}, is absent")
@pytest.mark.parametrize(
    ("name", "shape", "first", "header"),
    [
        ("ccpp.csv", (9568, 5), "AT", True),
        ("credit_default.csv", (30000, 25), "ID", True),
        ("actg175.csv", (2139, 28), "row_number", True),
        ("ai4i2020.csv", (10000, 14), "UDI", True),
        ("winequality-red.csv", (1599, 12), "c0", False),
        ("german.csv", (1000, 21), "c0", False),
        ("faq_zh.csv", (2908, 4), "id", True),
        ("banking77_train.csv", (10003, 2), "text", True),
        ("messy/messytables_characters.csv", (382, 18), "id", True),
        ("messy/messytables_utf-16le_encoded.csv", (327, 19), "Organisation_code", True),
        ("messy/messytables_spanish_chars.csv", (116, 8), "GF_ID", True),
    ],
)
def test_real_files(name, shape, first, header):
    found = detect(SHARED / name)
    file = read(SHARED / name, found)

    assert found.header is header
    assert file.rows.shape == shape
    assert file.rows.column_names[0] == first
    assert file.unreadable == []


@pytest.mark.parametrize(
    ("above", "n_records"),
    [
        ("Sales of January\n", 1),
        ("Sales of January\n\nmade, with care, by hand, on the, 3rd\n\n", 2),
        ("Report:;1\nRegion:;North\n****\n", 3),
        ('"";"";"";""\n;;;\n', 2),
    ],
)
def test_lines_above_the_header_are_left_out(tmp_path, above, n_records):
    path = write(tmp_path, above + "who;what;when;how\n" + "a;b;2;3\n" * 8)

    file = read(path)

    assert file.rows.column_names == ["who", "what", "when", "how"]
    assert file.numbers == list(range(n_records + 2, n_records + 10))
    assert file.csv.skip == len(above.rstrip("\n").splitlines())
    assert read(path, file.csv) == file


def test_what_is_declared_to_be_above_the_header_is_skipped(tmp_path):
    path = write(tmp_path, "a,b\n1,2\n\nc,d\n3,4\n")

    assert read(path, Csv(skip=3)).rows.to_pylist() == [{"c": "3", "d": "4"}]
    assert read(path, Csv(skip=0)).rows.num_rows == 3
    assert read(path, Csv(skip=2, header=False, delimiter=",")).numbers == [3, 4]
    with pytest.raises(DataError, match=r"nothing stands below the 9 lines.*source\.csv\.skip"):
        read(path, Csv(skip=9))


def test_a_header_that_is_short_is_no_line_above_it(tmp_path):
    with pytest.raises(DataError, match=r"none of its 9 records has the 2 cells.*source\.csv\.skip"):
        read(write(tmp_path, "a,b\n" + "1,2,3,4\n" * 9))


def test_a_delimiter_behind_every_row_names_no_column(tmp_path):
    assert read(write(tmp_path, "a,b\n1,2,\n3,4,\n")).rows.to_pylist() == [
        {"a": "1", "b": "2", "c2": None},
        {"a": "3", "b": "4", "c2": None},
    ]


def test_another_encoding_may_show_late(tmp_path):
    text = "name,town\n" + "Smith,Bonn\n" * 60_000 + "Müller,Köln am Rhein\nGünther,Düsseldorf\n" * 50

    file = read(write(tmp_path, text.encode("cp1252")))

    assert file.csv.encoding == "cp1252"
    assert file.rows["town"].to_pylist()[-1] == "Düsseldorf"


@pytest.mark.parametrize(("codec", "size"), [("gzip", None), ("zstd", None), ("gzip", 30), ("zstd", 30)])
def test_packed_files(tmp_path, codec, size):
    data = pa.compress(("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(2000))).encode(), codec="zstd", asbytes=True)
    if codec == "gzip":
        data = gzip.compress(("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(2000))).encode())
    path = write(tmp_path, data if size is None else data[:-size])

    if size is None:
        assert read(path).rows["b"].to_pylist()[-1] == "3996001"
    else:
        with pytest.raises(DataError, match=f"{codec} file, and can't be unpacked"):
            read(path)


@pytest.mark.skipif(not SHARED.exists(), reason=f"the folder of real data files, {SHARED}, is absent")
def test_real_files_that_are_messy():
    def look(name: str):
        return read(SHARED / "messy" / f"messytables_{name}.csv")

    padded = look("weird_head_padding")
    assert (padded.csv.delimiter, padded.csv.skip, padded.rows.shape, len(padded.unreadable)) == (";", 11, (60, 11), 16)
    assert padded.rows.column_names[:3] == ["c0", "1985", "1993"]
    assert padded.rows["1993"].to_pylist()[1:3] == ["379", "1"]

    titled = look("mixedGLB")
    assert (titled.csv.skip, titled.rows.shape, titled.numbers[0]) == (3, (133, 19), 5)
    assert titled.rows.column_names[::18] == ["Year", "SON"]
    assert titled.rows["Dec"].to_pylist()[-1] == "*****"

    macintosh = look("211")
    assert (macintosh.csv.encoding, macintosh.rows.shape) == ("mac_roman", (2132, 96))

    german = look("sparse_with_column_errors")
    assert (german.csv.encoding, german.rows.shape, german.rows.column_names[-1]) == ("cp1252", (2237, 4), "c3")
    assert german.rows["Bezeichnung"][0].as_py().startswith("Trägerorganisationen;")

    assert (look("long").rows.shape, look("long").rows.column_names) == ((3999, 1), ["foo"])
    assert look("characters").rows["景點中文名稱"].to_pylist()[11] == "北門九氳氤\n(陳姓桂記墓園)"
    assert look("spanish_chars").rows["Descripción"].to_pylist()[0].startswith(" Comprende las acciones propias de la gestión")
    assert look("utf-16le_encoded").rows["Organisation_name"].to_pylist()[-2] == "St Andrew's Healthcare - Birmingham"
