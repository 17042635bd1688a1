"""The same work on Spark, for a partition that outgrows a machine: `engine: spark` in the profile.

Spark hands out the shards of a partition and moves rows; what is done to them are the functions that this process does to them
(`judge_shard`, `Cleaner`), inside `mapInArrow`. A cleaning step that looks at the whole partition gets the rows that it compares
together by a shuffle, in the order of their names, and is then planned and done as on one machine. At the end the rows go back to the
shard that they came from, are staged as files, and the driver commits those of all tasks at once.

`raw` is read with Arrow, a range of row groups a task: Spark's own reader would pack files into tasks by size, out of order.
"""

import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import pipelines_lib
from pipelines_lib import errors
from pipelines_lib.config import Spark
from pipelines_lib.data.accepted import Accepted
from pipelines_lib.data.cleaning import WHOLE_KINDS, Change, Cleaner, compared, passes
from pipelines_lib.data.hashing import hash_rows
from pipelines_lib.data.shards import Left, judge_shard
from pipelines_lib.data.tables import Shard, Tables
from pipelines_lib.data.typed import typed_nothing
from pipelines_lib.errors import ConfigError, SluiceError
from pipelines_lib.store import StorePath
from pipelines_lib.use_case import UseCase

Batches = Iterator[pa.RecordBatch]
Counts = dict[tuple[int, int], list[Change]]
"""(pass, task) to what the task changed."""

_TO = "task that it goes to"
"""The column, of the moving rows alone, that says where a row goes. No column of a use case has a blank in its name."""
_LEFT = "number INT, document STRING, tables BINARY"


@contextmanager
def session(settings: Spark, *, quiet: bool) -> Iterator[Any]:
    """A Spark session of this process's own; `quiet` where an exception may quote a value that no log may hold. Raises `ConfigError` where PySpark or Java is missing."""
    if find_spec("pyspark") is None:
        raise ConfigError(
            "engine: spark needs PySpark, which is not installed; `pip install '.[spark]'`, or set `engine: local` in the profile"
        )
    local = settings.master.startswith("local")
    java = Path(os.environ.get("JAVA_HOME", ""), "bin", "java")
    if not (java.exists() if os.environ.get("JAVA_HOME") else shutil.which("java")):
        raise ConfigError("engine: spark needs Java 17 or newer, and there is none; install it, or set JAVA_HOME, or set `engine: local`")
    from pyspark.sql import SparkSession  # noqa: PLC0415 - an extra, and slow to import

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # It tells of each connection that it closes, when the interpreter ends and there is nothing left to tell it to.
    logging.getLogger("py4j").setLevel(logging.WARNING)
    if local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    own = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.caseSensitive": "true",
        # Where a row goes is said here, and not by what Spark sees of sizes on the way.
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.shuffle.partitions": str(settings.tasks),
        "spark.sql.execution.arrow.maxRecordsPerBatch": "100000",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Workers on this machine import the package that this process has.
        **({"spark.executorEnv.PYTHONPATH": str(Path(pipelines_lib.__file__).parents[1])} if local else {}),
    }
    builder = SparkSession.builder.master(settings.master).appName("sluice")
    for name, value in {**own, **settings.conf}.items():
        builder = builder.config(name, value)
    with warnings.catch_warnings():
        # Nothing here goes through pandas.
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        spark = builder.getOrCreate()
        spark.sparkContext.setLogLevel("OFF" if quiet else "ERROR")
        try:
            yield spark
        finally:
            spark.stop()


def judged_on(
    spark: Any,
    use_case: UseCase,
    tables: Tables,
    shards: Sequence[Shard],
    *,
    partition_key: str,
    raw_version: int,
    unreadable: Mapping[str, tuple[str, str]],
) -> list[Left]:
    """`judge_shard` of every shard, a task each; in order. Raises as it does."""

    def work(number: int) -> Left:
        return judge_shard(use_case, tables, shards[number], partition_key=partition_key, raw_version=raw_version, unreadable=unreadable)

    return _collected(_numbers(spark, len(shards)).mapInArrow(_one_each(work), _LEFT), tables.root)


def cleaned_on(
    spark: Any, use_case: UseCase, tables: Tables, shards: Sequence[Shard], *, partition_key: str, accepted: Accepted
) -> tuple[list[Left], list[Change]]:
    """The partition's cleaned rows, staged shard by shard in order, and what each step changed. Raises `ConfigError` as `Cleaner` does."""
    counts = spark.sparkContext.accumulator({}, _united())
    parts = passes(use_case)
    rows, here = _numbers(spark, len(shards)), typed_nothing(use_case)
    read: Read = _shards_read(accepted, shards)
    for number, steps in enumerate(parts):
        here = _cleaned(use_case, steps, here)[0]
        moved = number + 1 < len(parts)
        to = _to_its_equals(use_case, parts[number + 1][0], len(shards)) if moved else None
        rows = rows.mapInArrow(_pass(use_case, steps, read, to, _counted(counts, number)), _spark_schema(here, moved))
        if moved:
            rows = _moved(rows, len(shards))
        read = _rows_read(here.schema)
    if len(parts) > 1:
        # Ascending row ids, which no shuffle keeps, are what a table's files are made of.
        rows = rows.mapInArrow(_pass(use_case, [], read, _to_its_shard(shards), _uncounted), _spark_schema(here, True))
        rows = _moved(rows, len(shards))
    left = _collected(rows.mapInArrow(_staged(tables, partition_key, here.schema), _LEFT), tables.root)
    # Tasks without rows leave nothing, and the columns are known all the same.
    left.append(Left([], [(field.name, str(field.type)) for field in here.schema], {"n_rows": 0}))
    return left, _summed(use_case, counts.value)


Read = Callable[[Batches], Iterator[pa.Table]]
"""The rows that a task is about, from what Spark hands it."""
Target = Callable[[pa.Table], np.ndarray]
"""The task that each row goes to [n]."""


def _pass(use_case: UseCase, steps: list[int], read: Read, to: Target | None, count: Callable[[list[Change]], None]) -> Any:
    """A task that does some steps to its rows and says where each of them goes next."""

    def work(batches: Batches) -> Batches:
        if steps and use_case.clean[steps[0]].kind in WHOLE_KINDS:
            tables: Iterator[pa.Table] = iter([pa.concat_tables(read(batches))])
        else:
            tables = read(batches)
        done: list[list[Change]] = []
        for table in tables:
            rows, changes = _cleaned(use_case, steps, table)
            done.append(changes)
            yield from (rows if to is None else rows.append_column(_TO, pa.array(to(rows), pa.int32()))).combine_chunks().to_batches()
        count(
            [
                Change(same[0].step, sum(c.rows_dropped for c in same), sum(c.values_changed for c in same))
                for same in zip(*done, strict=True)
            ]
        )

    return work


def _cleaned(use_case: UseCase, steps: list[int], rows: pa.Table) -> tuple[pa.Table, list[Change]]:
    cleaner = Cleaner(use_case, steps)
    cleaner.plan(lambda columns: iter([rows.select(columns)]))
    return cleaner.apply(rows)


def _shards_read(accepted: Accepted, shards: Sequence[Shard]) -> Read:
    def read(batches: Batches) -> Iterator[pa.Table]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                yield from accepted.batches(shard=shards[number])

    return read


def _rows_read(schema: pa.Schema) -> Read:
    def read(batches: Batches) -> Iterator[pa.Table]:
        yield schema.empty_table()
        for batch in batches:
            yield pa.table(batch.select(schema.names)).cast(schema)

    return read


def _moved(rows: Any, n_tasks: int) -> Any:
    """Each row where it goes, in the order of the names there."""
    return rows.repartitionById(n_tasks, f"`{_TO}`").sortWithinPartitions("row_id")


def _to_its_equals(use_case: UseCase, step: int, n_tasks: int) -> Target:
    """Rows that the step compares go to one task; those that it leaves alone, since they lack a value, are spread."""
    columns = compared(use_case.clean[step])

    def to(rows: pa.Table) -> np.ndarray:
        keys = [rows[name].combine_chunks() for name in columns]
        lacking = np.zeros(rows.num_rows, np.bool_)
        for key in keys:
            lacking |= key.is_null().to_numpy(zero_copy_only=False)
        hashes = np.where(lacking, hash_rows([rows["row_id"].combine_chunks()]), hash_rows(keys))
        return (hashes % np.uint64(n_tasks)).astype(np.int32)

    return to


def _to_its_shard(shards: Sequence[Shard]) -> Target:
    firsts = np.array([shard.first for shard in shards[1:] if shard.first is not None], object)

    def to(rows: pa.Table) -> np.ndarray:
        numbers: np.ndarray = np.searchsorted(firsts, rows["row_id"].to_numpy(), side="right").astype(np.int32)
        return numbers

    return to


def _staged(tables: Tables, partition_key: str, schema: pa.Schema) -> Any:
    """A task that stages its rows, which are those of one shard in order."""

    def work(batches: Batches) -> Batches:
        from pyspark import TaskContext  # noqa: PLC0415 - an extra

        with tables.shard_writer("clean", partition_key) as clean:
            for rows in _rows_read(schema)(batches):
                clean.add(rows)
        yield _row(TaskContext.get().partitionId(), Left.of(clean, {"n_rows": clean.n_rows}))

    return work


def _one_each(work: Callable[[int], Left]) -> Any:
    """A task that does `work` for each number it is given. What a user can cause comes back as what it is."""

    def works(batches: Batches) -> Batches:
        for batch in batches:
            for number in batch["id"].to_pylist():
                try:
                    yield _row(number, work(number))
                except SluiceError as error:
                    yield _record(number, {"error": [type(error).__name__, str(error)]}, b"")

    return works


def _row(number: int, left: Left) -> pa.RecordBatch:
    return _record(number, left.document(), left.tables_as_bytes())


def _record(number: int, document: dict[str, Any], tables: bytes) -> pa.RecordBatch:
    values = [pa.array([number], pa.int32()), pa.array([json.dumps(document)]), pa.array([tables], pa.binary())]
    return pa.RecordBatch.from_arrays(values, ["number", "document", "tables"])


def _collected(rows: Any, store: StorePath) -> list[Left]:
    """What the tasks left, in the order of their numbers. Raises what one of them has raised."""
    found = []
    for row in sorted(rows.collect(), key=lambda row: row["number"]):
        document = json.loads(row["document"])
        if "error" in document:
            kind, message = document["error"]
            raise getattr(errors, kind)(message)
        found.append(Left.read(document, bytes(row["tables"]), store))
    return found


def _numbers(spark: Any, n: int) -> Any:
    """0 to n - 1, a task each."""
    return spark.range(0, n, 1, n)


def _counted(counts: Any, number: int) -> Callable[[list[Change]], None]:
    def count(changes: list[Change]) -> None:
        from pyspark import TaskContext  # noqa: PLC0415 - an extra

        counts.add({(number, TaskContext.get().partitionId()): changes})

    return count


def _uncounted(_: list[Change]) -> None:
    """For a pass without steps."""


def _united() -> Any:
    """Of dictionaries that tasks add: a task that is done twice says the same twice, and counts once."""
    from pyspark import AccumulatorParam  # noqa: PLC0415 - an extra

    class United(AccumulatorParam):  # type: ignore[misc]
        def zero(self, value: Counts) -> Counts:  # noqa: ARG002
            return {}

        def addInPlace(self, value1: Counts, value2: Counts) -> Counts:  # noqa: N802
            return {**value1, **value2}

    return United()


def _summed(use_case: UseCase, counts: Counts) -> list[Change]:
    total = {change.step: change for change in Cleaner(use_case).report()}
    for change in (change for changes in counts.values() for change in changes):
        so_far = total[change.step]
        total[change.step] = Change(change.step, so_far.rows_dropped + change.rows_dropped, so_far.values_changed + change.values_changed)
    return list(total.values())


def _spark_schema(rows: pa.Table, moving: bool) -> Any:
    """Spark's types of the columns; times have no zone there, either."""
    from pyspark.sql import types  # noqa: PLC0415 - an extra

    of = {
        pa.string(): types.StringType(),
        pa.int32(): types.IntegerType(),
        pa.int64(): types.LongType(),
        pa.float64(): types.DoubleType(),
        pa.bool_(): types.BooleanType(),
        pa.timestamp("us"): types.TimestampNTZType(),
    }
    fields = [*rows.schema, *([pa.field(_TO, pa.int32())] if moving else [])]
    return types.StructType([types.StructField(field.name, of[field.type]) for field in fields])
