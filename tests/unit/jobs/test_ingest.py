import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError
from pipelines_lib.jobs import ingest, validate
from pipelines_lib.store import read_json

TEXT = "id,who,when,price,count,colour,action\ne1,u1,2026-01-01,1.50,NA, red,buy\nragged\ne2,u2,2026-01-01,-1,x,,steal\n"
KEY = "2026-01-01"


def test_a_partition_is_kept_as_it_came(sandbox, make_use_case):
    sandbox.source(KEY, TEXT)

    result = sandbox.run(ingest.main, "ingest", make_use_case(), KEY)

    stage = sandbox.stage("ingest", make_use_case(), KEY)
    rows = Tables(stage.root).read("raw", [KEY]).to_pylist()
    assert [row["row_id"] for row in rows] == [f"{KEY}:000000002", f"{KEY}:000000004"]
    assert (rows[0]["price"], rows[0]["count"], rows[0]["colour"], rows[1]["colour"]) == ("1.50", "NA", " red", None)
    assert read_json(stage.folder / "unreadable.json") == [
        {"row_id": f"{KEY}:000000003", "text": "ragged", "why": "not the header's number of cells"}
    ]
    assert result.figures["n_unreadable"] == 1


def test_reading_it_again_changes_nothing(sandbox, make_use_case):
    sandbox.source(KEY, TEXT)

    first = sandbox.run(ingest.main, "ingest", make_use_case(), KEY)

    assert sandbox.run(ingest.main, "ingest", make_use_case(), KEY) == first


def test_a_column_that_changes_its_case_between_files_stays_one(sandbox, make_use_case):
    header, row = TEXT.splitlines()[:2]
    for day, extra in (("2026-01-01", "Note"), ("2026-01-02", "NOTE")):
        sandbox.source(day, f"{header},{extra}\n{row},x\n")
        sandbox.run(ingest.main, "ingest", make_use_case(), day)
    renamed = {**make_use_case().model_dump(mode="json")["columns"], "note": {"type": "string", "source": "NOTE"}}
    sandbox.run(validate.main, "validate", make_use_case(columns=renamed), "2026-01-02")

    assert Tables(sandbox.stage("ingest", make_use_case(), KEY).root).read("raw")["Note"].to_pylist() == ["x", "x"]


def test_a_hook_lands_the_file_with_its_params(sandbox, make_use_case):
    folder = sandbox.project.use_cases / "shop"
    folder.mkdir(parents=True)
    (folder / "hooks.py").write_text(
        "def land(partition_key, path, params):\n    path.write_text(params['header'] + f'e,u,{partition_key},1,1,red,buy\\n')\n"
    )
    source = {"path": "{home}/landing/{partition}.csv", "land": True, "params": {"header": TEXT.splitlines(keepends=True)[0]}}

    result = sandbox.run(ingest.main, "ingest", make_use_case(source=source), KEY)

    assert result.figures["n_rows"] == 1
    (folder / "hooks.py").write_text("")
    with pytest.raises(ConfigError, match="has no function land"):
        sandbox.run(ingest.main, "ingest", make_use_case(source=source), KEY)
