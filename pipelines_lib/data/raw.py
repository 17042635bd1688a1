"""Records as rows of the `raw` layer: what a row and a column are called there."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.records import Batch

# Columns that Sluice adds to the raw layer.
_TAKEN = ("row_id", "partition_key")


def row_id(partition_key: str, number: int, part: str = "") -> str:
    """Names a source record for good; sorts as the records stand in their files."""
    return f"{_prefix(partition_key, part)}{number:09d}"


def row_ids(partition_key: str, numbers: pa.Int64Array, part: str = "") -> pa.StringArray:
    """`row_id` of many records."""
    digits = pc.utf8_lpad(numbers.cast(pa.string()), width=9, padding="0")
    return pc.binary_join_element_wise(_prefix(partition_key, part), digits, "")


def raw_name(source_name: str) -> str:
    """A source column's name in the raw layer: one that Sluice adds itself gets an underscore behind it.

    So does one with underscores behind it already, which keeps `row_id` and `row_id_` apart.
    """
    return f"{source_name}_" if source_name.casefold().rstrip("_") in _TAKEN else source_name


def raw_rows(batch: Batch, partition_key: str, part: str = "") -> pa.Table:
    """The readable records as rows of the raw layer."""
    rows = batch.rows.rename_columns([raw_name(name) for name in batch.rows.column_names])
    return rows.add_column(0, "row_id", row_ids(partition_key, batch.numbers, part))


def _prefix(partition_key: str, part: str) -> str:
    return f"{partition_key}:{part}:" if part else f"{partition_key}:"
