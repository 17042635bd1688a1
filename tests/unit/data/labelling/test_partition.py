"""Labelling whole partitions, from tables to table, in any order of runs."""

import datetime as dt
import itertools

import pyarrow as pa
import pytest

from pipelines_lib.data.labelling import partition as module
from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.labelling.partition import label_due
from pipelines_lib.data.tables import Tables

START = dt.datetime(2026, 1, 1)
EVENT = {
    "event_within": {"column": "failure", "values": [1], "within": "24h", "follows": "fails", "otherwise": "runs"},
    "positive": "fails",
}
JOIN = {
    "join": {"source": {"path": "truth/{partition}.csv"}, "on": ["claim"], "column": "outcome", "late": 3},
    "horizon": 1,
    "map": {"1": "fraud", "0": "fine"},
    "positive": "fraud",
}
COLUMNS = {
    "claim": {"type": "string", "role": "key"},
    "who": {"type": "string", "role": "entity"},
    "when": {"type": "timestamp", "role": "time"},
    "amount": {"type": "number"},
    "failure": {"type": "integer", "role": "label"},
}


def key(day):
    return f"2026-01-{day:02d}"


class House:
    """A use case's tables, and runs that leave clean rows and ground truth there and label."""

    def __init__(self, root, use_case, truths=None):
        self.tables, self.marks, self.use_case = Tables(root), Marks(root), use_case
        self.truths = truths or {}

    def run(self, day, rows=3):
        """A data run of a day; returns the partitions it labelled."""
        if self.use_case.label.join is not None:
            self.arrive(day, self.truths.get(day, {}))
        self.tables.write("clean", key(day), clean(day, rows))
        self.marks.add("prepared", key(day))
        return list(self.label(day))

    def arrive(self, day, truths):
        """Ground truth of claims that came on a day."""
        row_ids = [f"{key(day)}:{i:09d}" for i in range(len(truths))]
        columns = {"row_id": pa.array(row_ids, pa.string()), "claim": pa.array(list(truths), pa.string())}
        self.tables.write("ground_truth", key(day), pa.table({**columns, "label": pa.array(list(truths.values()), pa.string())}))
        self.marks.add("collected", key(day))

    def label(self, day):
        return label_due(self.use_case, key(day), self.tables, self.marks, {})

    def labels(self):
        """`row_id` to label."""
        rows = self.tables.read("labelled")
        return dict(zip(rows["row_id"].to_pylist(), rows["label"].to_pylist(), strict=True))

    def bytes(self):
        """Every file that the newest version names, by its path below the table."""
        found = {}
        for part in self.tables.partitions("labelled"):
            table = self.tables.read("labelled", [part])
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table.combine_chunks())
            found[part] = (sink.getvalue().to_pybytes(), self.tables.contents("labelled")[1][part])
        return found


def clean(day, n):
    """Rows a few hours apart; machine a fails in the last of each even day."""
    whose = ["a", "b"]
    rows = range(n)
    return pa.table(
        {
            "row_id": pa.array([f"{key(day)}:{i:09d}" for i in rows], pa.string()),
            "claim": pa.array([f"c{day}-{i}" for i in rows], pa.string()),
            "who": pa.array([whose[i % 2] for i in rows], pa.string()),
            "when": pa.array([START + dt.timedelta(days=day - 1, hours=5 * i) for i in rows], pa.timestamp("us")),
            "amount": pa.array([float(i) for i in rows], pa.float64()),
            "failure": pa.array([int(day % 2 == 0 and i == n - 1) for i in rows], pa.int64()),
        }
    )


@pytest.fixture
def house(tmp_path, make_use_case):
    counter = itertools.count()

    def build(label, truths=None):
        return House(tmp_path / str(next(counter)), make_use_case(columns=COLUMNS, label=label), truths)

    return build


def test_an_event_of_the_next_day_labels_the_rows_of_this_one(house):
    built = house(EVENT)
    assert built.run(1) == []
    assert built.run(2) == [key(1)]

    # Machine a has rows at 0 and 10 o'clock and fails on day 2 at 10: exactly 24 hours after the one, more after the other.
    assert built.labels() == {f"{key(1)}:{0:09d}": "runs", f"{key(1)}:{1:09d}": "runs", f"{key(1)}:{2:09d}": "fails"}


def test_a_day_that_comes_late_or_again_labels_the_days_that_look_at_it(house):
    built = house(EVENT)
    assert [built.run(day) for day in (1, 3)] == [[], []]
    assert built.run(2) == [key(1), key(2)]
    before = built.labels()

    # One row less: machine a's failing row of day 2 is now the second, which is machine b's.
    assert built.run(2, rows=2) == [key(1), key(2)]
    assert built.labels() != before
    assert built.run(2, rows=2) == [key(2)]


def test_a_day_without_rows_is_a_day_on_which_nothing_happened(house):
    built = house(EVENT)
    built.run(1)
    assert built.run(2, rows=0) == [key(1)]
    assert set(built.labels().values()) == {"runs"}


ORDERS = list(itertools.permutations(range(1, 5)))


@pytest.mark.parametrize("label", [EVENT, JOIN], ids=["event_within", "join"])
def test_any_order_of_runs_ends_in_the_same_bytes(house, label):
    truths = {1: {"c1-0": "1"}, 2: {"c1-1": "0", "c1-0": "0"}, 3: {"c2-1": "1", "c1-0": "1"}, 4: {"c3-0": "1", "c2-1": "0", "c1-2": "0"}}
    ends = []
    for order in [ORDERS[0], *ORDERS[3::4]]:
        built = house(label, truths)
        for day in order:
            built.run(day)
        ends.append(built.bytes())

    assert ends[0]
    assert all(end == ends[0] for end in ends)


def test_truth_is_used_when_the_horizon_has_closed_and_not_before(house):
    built = house(JOIN, {1: {"c1-0": "1", "c1-1": "0"}, 2: {"c1-1": "1"}})
    assert built.run(1) == []
    assert built.run(2) == [key(1)]

    assert built.labels() == {f"{key(1)}:{0:09d}": "fraud", f"{key(1)}:{1:09d}": "fraud"}


def test_late_truth_labels_again_the_partitions_whose_rows_it_is_about_and_no_other(house):
    built = house(JOIN, {2: {"c1-0": "0", "c2-0": "0"}, 3: {}, 4: {"c1-0": "1"}})
    for day in (1, 2, 3):
        built.run(day)
    before = built.tables.contents("labelled")[1]

    assert built.run(4) == [key(1), key(3)]
    assert built.labels()[f"{key(1)}:{0:09d}"] == "fraud"
    assert built.tables.contents("labelled")[1][key(2)] == before[key(2)]


def test_truth_that_comes_too_late_changes_nothing(house):
    built = house(JOIN, {1: {"c1-0": "0"}, 6: {"c1-0": "1"}})
    for day in range(1, 7):
        built.run(day)

    assert built.labels()[f"{key(1)}:{0:09d}"] == "fine"


def test_truth_that_is_collected_again_without_a_record_takes_its_label_back(house):
    built = house(JOIN, {1: {"c1-0": "1", "c1-1": "0"}})
    built.run(1)
    built.run(2)
    built.truths[1] = {"c1-0": "1"}

    assert key(1) in built.run(1)
    assert built.labels() == {f"{key(1)}:{0:09d}": "fraud"}


def test_rows_without_truth_get_the_class_that_is_named_for_them(house):
    built = house({**JOIN, "join": {**JOIN["join"], "missing": "fine"}}, {1: {"c1-0": "1"}})
    built.run(1)
    built.run(2)

    assert list(built.labels().values()) == ["fraud", "fine", "fine"]


def test_labelling_again_what_has_not_changed_makes_no_commit(house):
    built = house(JOIN, {1: {"c1-0": "1"}})
    for day in (1, 2, 3):
        built.run(day)
    version = built.tables.version("labelled")
    for day in (3, 1, 2):
        built.run(day)

    assert built.tables.version("labelled") == version


def test_a_run_that_meets_another_one_looks_again(house, monkeypatch):
    """Day 2 changes while day 1 is being labelled from the old day 2."""
    built = house(EVENT)
    built.run(1)
    built.run(2)
    label_partition = module.label_partition
    met = []

    def meet(use_case, one, *rest):
        if not met:
            met.append(one)
            built.tables.write("clean", key(2), clean(2, 2))
        return label_partition(use_case, one, *rest)

    monkeypatch.setattr(module, "label_partition", meet)
    built.label(1)
    calm = house(EVENT)
    calm.run(1)
    calm.run(2, rows=2)

    assert built.bytes() == calm.bytes()


def test_a_labelled_table_that_was_removed_is_made_again(house):
    import shutil

    built = house(EVENT)
    built.run(1)
    built.run(2)
    shutil.rmtree(built.tables.path("labelled"))

    assert built.run(3) == [key(1), key(2)]


def test_a_run_that_died_before_it_could_say_what_it_did_is_made_up_for(house):
    """Labels written, and no word of what from: another run writes the same again, which makes no commit."""
    import shutil

    built = house(JOIN, {1: {"c1-0": "1"}})
    for day in (1, 2, 3):
        built.run(day)
    before, version = built.bytes(), built.tables.version("labelled")
    shutil.rmtree(built.tables.root / "marks" / "labelled")

    assert built.run(3) == [key(1), key(2)]
    assert (built.bytes(), built.tables.version("labelled")) == (before, version)
    assert built.run(2) == [key(2)]


def test_hours_are_partitions_like_days(tmp_path, make_use_case):
    label = {"event_within": EVENT["event_within"] | {"within": "90min"}, "positive": "fails"}
    use_case = make_use_case(columns=COLUMNS, label=label, partition="hour")
    tables, marks = Tables(tmp_path), Marks(tmp_path)
    done = []
    for hour in range(4):
        one = f"2026-01-01T{hour:02d}"
        rows = clean(1, 1).set_column(0, "row_id", pa.array([f"{one}:000000001"]))
        rows = rows.set_column(3, "when", pa.array([START + dt.timedelta(hours=hour)], pa.timestamp("us")))
        tables.write("clean", one, rows.set_column(5, "failure", pa.array([int(hour == 2)])))
        marks.add("prepared", one)
        done += label_due(use_case, one, tables, marks, {})

    assert done == ["2026-01-01T00", "2026-01-01T01"]
    assert tables.read("labelled")["label"].to_pylist() == ["runs", "fails"]
