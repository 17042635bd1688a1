import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines_lib.data import snapshot
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import BadInput, DataError
from pipelines_lib.retention import pinned_versions, vacuum
from pipelines_lib.store import write_json

KEY = "2026-01-01"


def rows(price):
    n = 12
    return pa.table(
        {
            "row_id": [f"{i:03d}" for i in range(n)],
            "who": [f"u{i}" for i in range(n)],
            "price": [price] * n,
            "count": list(range(n)),
            "colour": ["red"] * n,
            "label": ["yes", "no"] * 6,
            "split": ["train"] * 4 + ["validation"] * 4 + ["test"] * 4,
        }
    )


@pytest.fixture
def old(tmp_path, make_use_case):
    """Three versions of a partition, written long ago; the second is a model's."""
    tables = Tables(tmp_path)
    tables.write("labelled", KEY, rows(1.0))
    tables.write("labelled", KEY, rows(2.0))
    ref = snapshot.choose(make_use_case(), tables, KEY, 14).ref
    tables.write("labelled", KEY, rows(3.0))
    tables.write("clean", KEY, rows(1.0))
    tables.write("clean", KEY, rows(2.0))
    write_json(tmp_path / "packages" / "m-1" / "manifest.json", {"snapshot": ref.model_dump(mode="json")})
    return tmp_path, ref


def age(root: Path, monkeypatch):
    """Forty days go by, for the files and for the clock of delta-rs, which reads the log."""
    for path in root.rglob("*"):
        os.utime(path, (time.time() - 40 * 86400,) * 2)
    for log in root.rglob("_delta_log/*.json"):
        text = log.read_text()
        for stamp in {part.split(":")[1].split(",")[0].rstrip("}") for part in text.split('"deletionTimestamp"')[1:]}:
            text = text.replace(stamp, str(int(stamp) - 40 * 86400 * 1000))
        log.write_text(text)


def test_what_a_model_was_trained_on_is_read_the_same_after_a_vacuum(old, monkeypatch):
    root, ref = old
    age(root, monkeypatch)

    found = {part.layer: part for part in vacuum(root, 30)}

    assert found["labelled"].n_files == 1
    assert found["labelled"].kept_versions == (1,)
    assert found["clean"].n_files == 1
    again = snapshot.read(Tables(root), ref)
    assert again.column("price").to_pylist() == [2.0] * 12
    assert Tables(root).read("labelled")["price"].to_pylist() == [3.0] * 12
    with pytest.raises(DataError, match="can't be read any more"):
        snapshot.read(Tables(root), ref.model_copy(update={"version": 0}))


def test_young_versions_stay_and_a_dry_run_removes_nothing(old, monkeypatch):
    root, _ = old
    assert {part.n_files for part in vacuum(root, 30)} == {0}
    age(root, monkeypatch)
    before = sorted(root.rglob("*.parquet"))

    assert sum(part.n_files for part in vacuum(root, 30, dry_run=True)) == 2
    assert sorted(root.rglob("*.parquet")) == before
    with pytest.raises(BadInput, match="a day at least"):
        vacuum(root, 0)


def test_rows_that_are_written_again_meanwhile_stay(old, monkeypatch):
    root, _ = old
    age(root, monkeypatch)
    look = Tables.vacuum

    def meanwhile(self, layer, *, dry_run=False, **given):
        found = look(self, layer, dry_run=dry_run, **given)
        if dry_run and layer == "clean":
            Tables(root).write("clean", KEY, rows(1.0))
        return found

    monkeypatch.setattr(Tables, "vacuum", meanwhile)
    vacuum(root, 30)

    assert Tables(root).read("clean")["price"].to_pylist() == [1.0] * 12


def test_a_run_that_was_never_registered_keeps_its_snapshot_too(old):
    root, ref = old
    other = ref.model_copy(update={"version": 0})
    write_json(root / "runs" / "training" / "r" / "snapshot" / "result.json", {"outputs": {"snapshot": other.model_dump(mode="json")}})

    assert pinned_versions(root) == {"labelled": {0, 1}}


def test_a_version_stays_readable_however_many_come_after_it(tmp_path, make_use_case):
    tables = Tables(tmp_path)
    tables.write("labelled", KEY, rows(0.5))
    ref = snapshot.choose(make_use_case(), tables, KEY, 14).ref
    for price in range(105):  # beyond a checkpoint
        tables.write("labelled", KEY, rows(float(price)))

    assert list(tmp_path.rglob("*.checkpoint.parquet"))
    assert snapshot.read(tables, ref).column("price").to_pylist() == [0.5] * 12
