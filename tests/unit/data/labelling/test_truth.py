import pyarrow as pa

from pipelines_lib.data.labelling.truth import joined


def test_a_key_may_have_any_name_that_a_column_may_have(make_use_case):
    join = {"source": {"path": "{partition}.csv"}, "on": ["place"], "column": "outcome"}
    columns = {"place": {"type": "string", "role": "key"}, "price": {"type": "number"}}
    use_case = make_use_case(columns=columns, label={"join": join, "positive": "yes"}, split={})
    rows = pa.table({"row_id": ["1", "2"], "place": ["Bonn", "Köln"]})

    [found] = joined([rows], pa.table({"place": ["Köln"], "label": ["yes"]}), use_case)

    assert found["label"].to_pylist() == [None, "yes"]
