"""A partition about people: what is written holds nobody's name."""

import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, DataError
from pipelines_lib.jobs import ingest
from pipelines_lib.store import read_json

KEY = "2026-01-01"
COLUMNS = {
    "who": {"type": "string", "role": "entity", "privacy": "identifier"},
    "mail": {"type": "string", "role": "other", "privacy": "identifier", "protect": "drop"},
    "age": {"type": "integer", "privacy": "quasi_identifier", "protect": {"bins": [0, 18, 65]}},
    "action": {"type": "string", "role": "label"},
}
TEXT = "who,mail,age,action,phone\nC77,zoe@a.de,44,buy,555\nC77 ,zoe@a.de,70,view,556\nC78,broken;44\n"


def test_a_partition_holds_hashes_and_bins(sandbox, make_use_case):
    sandbox.source(KEY, TEXT)

    result = sandbox.run(ingest.main, "ingest", make_use_case(columns=COLUMNS), KEY)

    stage = sandbox.stage("ingest", make_use_case(), KEY)
    rows = Tables(stage.root).read("raw", [KEY])
    assert set(rows.column_names) == {"row_id", "partition_key", "who", "age", "action"}
    assert rows["age"].to_pylist() == ["18", "65"]
    [who] = set(rows["who"].to_pylist())
    assert len(who) == 32
    [record] = read_json(stage.folder / "unreadable.json")
    assert (record["row_id"], record["text"]) == (f"{KEY}:000000004", "x99,xxxxxx;99")
    assert result.figures["not_written"] == ["mail", "phone"]


def test_a_lost_header_is_not_read_out(sandbox, make_use_case):
    sandbox.source(KEY, TEXT.partition("\n")[2])

    with pytest.raises(DataError, match="has no column 'who'") as caught:
        sandbox.run(ingest.main, "ingest", make_use_case(columns=COLUMNS), KEY)
    assert not any(value in str(caught.value) for value in ("C77", "zoe", "555"))


def test_without_a_key_nothing_is_read(sandbox, make_use_case, monkeypatch):
    sandbox.source(KEY, TEXT)
    stage = sandbox.stage("ingest", make_use_case(columns=COLUMNS), KEY)
    elsewhere = stage.spec.model_copy(update={"profile": "cluster"})

    with pytest.raises(ConfigError, match="hashed under a secret key, and there is none"):
        ingest.main(ingest.Stage(elsewhere, stage.use_case, stage.profile, stage.project))
    assert not stage.root.exists()
