from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.config import Spark
from pipelines_lib.data import spark
from pipelines_lib.data.tables import Shard
from pipelines_lib.errors import ConfigError


def test_without_pyspark_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(spark, "find_spec", lambda name: None)
    with (
        pytest.raises(ConfigError, match=r"needs PySpark.*pip install '\.\[spark\]'.*set `engine: local`"),
        spark.session(Spark(), quiet=False),
    ):
        pass


@pytest.mark.parametrize("home", ["", "nowhere"])
def test_without_java_it_says_what_to_install(monkeypatch, tmp_path: Path, home):
    monkeypatch.setattr(spark, "find_spec", lambda name: "there")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / home) if home else "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ConfigError, match=r"needs Java 17 or newer, and there is none; install it, or set JAVA_HOME"),
        spark.session(Spark(), quiet=False),
    ):
        pass


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([0.0, -0.0, 1.5, None])), max_size=20), st.integers(1, 5))
def test_rows_that_a_step_compares_meet(cells, n_tasks):
    from pipelines_lib.use_case import CleaningStep

    class Steps:
        clean = (CleaningStep.model_validate({"deduplicate": ["key", "price"]}),)

    rows = pa.table(
        {
            "row_id": pa.array([str(number) for number in range(len(cells))], pa.string()),
            "key": pa.array([key for key, _ in cells], pa.string()),
            "price": pa.array([price for _, price in cells], pa.float64()),
        }
    )
    tasks = spark._to_its_equals(Steps(), 0, n_tasks)(rows)

    assert set(tasks.tolist()) <= set(range(n_tasks))
    for cell in {cell for cell in cells if None not in cell}:
        assert len({task for task, other in zip(tasks.tolist(), cells, strict=True) if other == cell}) == 1


@given(st.lists(st.integers(0, 99), unique=True, min_size=1).map(sorted), st.integers(1, 6))
def test_rows_go_back_to_the_shard_they_came_from(numbers, of):
    names = [f"{number:03d}" for number in numbers]
    starts = [-(-len(names) * shard // of) for shard in range(of + 1)]
    bounds = ["", *(names[start] if start < len(names) else None for start in starts[1:])]
    shards = [Shard(range(0), 0, 0, bounds[shard], bounds[shard + 1]) for shard in range(of)]

    tasks = spark._to_its_shard(shards)(pa.table({"row_id": names}))

    assert tasks.dtype == np.int32
    assert all(shards[task].holds(name) for task, name in zip(tasks.tolist(), names, strict=True))
