"""A model under the governor, day by day, by the code of the stages: profile, drift, performance, decision.

The model is a logistic regression; a retraining takes no time and learns from the last days. What the stages keep in tables stays in memory.
"""

import datetime as dt
import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines_lib.evaluation import metrics
from pipelines_lib.evaluation.compare import standard_error
from pipelines_lib.features.arrow import feature_columns
from pipelines_lib.monitoring import joint
from pipelines_lib.monitoring.answers import profile_answers
from pipelines_lib.monitoring.drift import ColumnDrift
from pipelines_lib.monitoring.encoding import Encoder
from pipelines_lib.monitoring.estimate import Calibration
from pipelines_lib.monitoring.governor import Decision, Facts, Fired, Window, decide
from pipelines_lib.monitoring.history import PERFORMANCE, drift_rows, drifts_of, measured_window, performance_row
from pipelines_lib.monitoring.performance import estimated, realised
from pipelines_lib.monitoring.reference import Reference, Sample, inputs_by_importance
from pipelines_lib.monitoring.sketch import DataProfile, profile_columns
from pipelines_lib.use_case import UseCase

Floats = NDArray[np.float64]
Measured = tuple[pa.Table, list[dict[str, object]]]
"""Rows of the tables `drift` and `performance`: what is estimated first, what is realised second."""
NEVER = 10**6
"""Days after which labels come where they never do."""
_NAMES = 20
"""Most frequent categories that the model knows."""


def use_case_of(day: pa.Table, **monitoring: Any) -> UseCase:
    """What a user would write for such days; every column beside `label` is an input."""
    classes = pc.unique(day["label"]).to_pylist()
    types = {name: "number" if pa.types.is_floating(day[name].type) else "string" for name in day.column_names if name != "label"}
    binary = len(classes) == 2
    return UseCase.model_validate({
        "name": "stream", "title": "Stream", "owner": "benchmark", "task": "binary" if binary else "multiclass", "start": "2026-01-01",
        "source": {"path": "{home}/{partition}.csv"},
        "columns": {
            "id": {"type": "integer", "role": "key"}, **{name: {"type": type_} for name, type_ in types.items()},
            "outcome": {"type": "string", "role": "label"},
        },
        "label": {"column": "outcome", **({"positive": max(classes)} if binary else {})},
        "split": {"by": "row"},
        "gate": {"metric": "roc_auc" if binary else "accuracy", "floor": 0.0},
        "monitoring": monitoring,
    })  # fmt: skip


class Champion:
    """A model, and what monitoring knows of it: three of four rows are learned from, the fourth are its hold-out."""

    def __init__(self, case: UseCase, version: int, days: Sequence[pa.Table]) -> None:
        self.case, self.version = case, version
        rows = pa.concat_tables(days)
        seen = np.arange(rows.num_rows) % 4 != 0
        self._known, self._unseen = rows.filter(pa.array(seen)), rows.filter(pa.array(~seen))
        began = time.process_time()
        self._names = {
            name: pa.array([value for value, _ in Counter(self._known[name].to_pylist()).most_common(_NAMES)])
            for name in case.features("string")
        }
        self._model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        self._model.fit(self._matrix(self._known), self._known["label"].to_numpy())
        self.cpu_seconds = time.process_time() - began
        self.classes: tuple[str, ...] = tuple(self._model.classes_)
        self.figure = self.metric(self._unseen)

    def metric(self, day: pa.Table) -> float:
        """The gate's metric of a day whose labels are known."""
        return metrics.value(self.case.gate.metric, *self._judged(day))

    def answers(self, day: pa.Table) -> pa.Table:
        """What the service logs."""
        scores = self._scores(day)
        predicted = scores.argmax(axis=1)
        told = scores[:, 1] if self.case.task == "binary" else scores.max(axis=1)
        return day.drop_columns(["label"]).append_column("id", pa.array(np.arange(len(day)))).append_column(
            "score", pa.array(told)
        ).append_column("prediction", pa.array(self.classes, pa.string()).take(pa.array(predicted)))  # fmt: skip

    @cached_property
    def reference(self) -> Reference:
        """What the stage evaluate puts into the package."""
        case, types = self.case, self.case.feature_types
        inputs = profile_columns(feature_columns(self._known, types), types)
        answers = self.answers(self._unseen)
        told = profile_columns({}, {}, scores=answers["score"].to_numpy(), predictions=answers["prediction"].to_pylist())
        profile = DataProfile(inputs.n_rows, {**inputs.columns, **told.columns})
        known = Reference(profile=profile, importance=self._importance())
        columns = inputs_by_importance(known)
        some = self._known.take(pa.array(np.unique(np.linspace(0, len(self._known) - 1, joint.ROWS).astype(int))))
        sample = Sample(columns=columns, codes=Encoder(profile, columns).encode(feature_columns(some, types), len(some)))
        right = pc.equal(self._unseen["label"], answers["prediction"] if case.label.positive is None else case.label.positive)
        estimator = Calibration.fit(answers["score"].to_numpy(), right.to_numpy().astype(np.float64))
        error = standard_error(case.gate.metric, *self._judged(self._unseen))
        return Reference(profile=profile, importance=known.importance, sample=sample, estimator=estimator, holdout_error=error)

    def measure(self, day: pa.Table) -> Measured:
        """As the stage of that name."""
        answers = self.answers(day)
        now = profile_answers(answers, self.case)
        drift = drift_rows(joint.drift_of_answers(self.reference, now, answers, self.case.monitoring.psi), self.version)
        metric = self.case.gate.metric
        guess = estimated(answers, self.case, self.reference, None)[metric]
        labels = pa.table({"id": answers["id"], "label": day["label"]})
        known = realised(answers, labels, self.case, self.classes, self.case.label.positive)
        assert known is not None
        common: dict[str, Any] = {
            "metric": metric, "reference": self.figure, "reference_error": self.reference.holdout_error, "n_rows": len(day),
            "model_version": self.version,
        }  # fmt: skip
        return drift, [
            performance_row("estimated", value=guess.value, low=guess.low, high=guess.high, **common),
            performance_row("realised", value=known.metrics[metric], low=known.low, high=known.high, **common),
        ]

    def _scores(self, day: pa.Table) -> Floats:
        return np.asarray(self._model.predict_proba(self._matrix(day)))

    def _judged(self, day: pa.Table) -> tuple[metrics.Truth, NDArray[np.float32]]:
        """Truth, and scores [n, C]."""
        places = np.searchsorted(self.classes, day["label"].to_numpy())
        return metrics.Truth(places, self.classes, 1 if self.case.task == "binary" else None), self._scores(day).astype(np.float32)

    def _matrix(self, day: pa.Table) -> Floats:
        """Numbers, 0 where one is missing and 10 at most, and one column for each frequent category."""
        numbers = [np.nan_to_num(day[name].to_numpy(), nan=0.0).clip(-10, 10)[:, None] for name in self.case.features("number")]
        names = [
            (pc.fill_null(pc.index_in(day[name], known), _NAMES).to_numpy()[:, None] == np.arange(_NAMES)).astype(np.float64)
            for name, known in self._names.items()
        ]
        return np.concatenate([*numbers, *names], axis=1)

    def _importance(self) -> dict[str, float]:
        """What the metric loses where an input is shuffled."""
        random = np.random.default_rng(0)
        order = pa.array(random.permutation(len(self._unseen)))
        return {
            name: self.figure - self.metric(self._unseen.set_column(place, name, self._unseen[name].take(order)))
            for place, name in enumerate(self._unseen.column_names)
            if name != "label"
        }


class Watch:
    """The measured days of one champion, and the decisions on them."""

    def __init__(self, case: UseCase, labels_after: int = 0) -> None:
        self.case, self.labels_after = case, labels_after
        self.fired: list[int] = []
        self._measured: dict[int, Measured] = {}

    def add(self, day: int, measured: Measured) -> None:
        """What the champion of a day measured on it."""
        self._measured[day] = measured

    def drifts(self, day: int) -> list[ColumnDrift]:
        """What was measured of each column on a day."""
        return drifts_of(self._measured[day][0])

    def window(self, day: int, seen_on: int) -> Window:
        """A measured day, with the labels that have come by another."""
        drift, performance = self._measured[day]
        known = performance if day + self.labels_after <= seen_on else performance[:1]
        return measured_window(self.case, self.key(day), drift, pa.Table.from_pylist(known, schema=PERFORMANCE), None)

    def decide(self, day: int, version: int) -> Decision:
        """As the stage of that name."""
        settings = self.case.monitoring
        moment = self.case.partition_time(self.key(day))
        fired = tuple(
            Fired(partition_key=self.key(f), partitions_away=f - day, moment=moment + (f - day) * dt.timedelta(days=1)) for f in self.fired
        )
        last = [earlier for earlier in range(day - settings.of + 1, day + 1) if earlier in self._measured]
        labelled = [earlier for earlier in self._measured if earlier + self.labels_after <= day][-settings.of :]
        facts = Facts(
            partition_key=self.key(day), moment=moment, champion_version=version, trainings_in_flight=0, fired=fired,
            labelled=tuple(self.window(earlier, day) for earlier in labelled),
        )  # fmt: skip
        return decide([self.window(earlier, day) for earlier in last], settings, facts)

    def key(self, day: int) -> str:
        """The partition's."""
        return self.case.shift("2026-01-01", day)
