"""What monitoring needs to know of a model: the package's `profile.json`.

The data profile of the rows it was trained on, what each input is worth to it, a sample of rows for the domain classifier, and how its performance is
estimated. The sample holds ranks and places of categories in one byte each, of columns that are not about a person.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from pipelines_lib.errors import DataError
from pipelines_lib.monitoring.encoding import Codes, Encoder
from pipelines_lib.monitoring.estimate import Calibration, ClassCalibration, Estimator, LabelCalibration, LossModel
from pipelines_lib.monitoring.sketch import DataProfile


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Some of the training rows."""

    columns: tuple[str, ...]
    """Columns that an `Encoder` of the profile reads."""
    codes: Codes
    """What it made of them, [n, k]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What a partition is compared with. Packages of an earlier Sluice have the profile alone."""

    profile: DataProfile
    importance: Mapping[str, float] = field(default_factory=dict)
    """Input → what the gate's metric loses without it."""
    sample: Sample | None = None
    estimator: Estimator | None = None
    """None where nothing can be estimated: of too few rows, or of several labels whose scores are not kept."""
    holdout_error: float | None = None
    """Standard error of the gate's metric on the hold-out: how far off the figure is that later ones are held against."""

    def encoder(self, columns: tuple[str, ...]) -> Encoder:
        """Reads `columns` as the profile sees them."""
        return Encoder(self.profile, columns)

    def to_json(self) -> str:
        """As a JSON text with sorted keys; a profile's, with more in it."""
        more: dict[str, Any] = {"importance": dict(self.importance), "holdout_error": self.holdout_error}
        if self.sample is not None:
            codes = self.sample.codes
            more["sample"] = {
                "columns": list(self.sample.columns),
                "shape": list(codes.shape),
                "codes": base64.b64encode(codes.tobytes()).decode("ascii"),
            }
        if self.estimator is not None:
            more["estimator"] = self.estimator.to_dict()
        return json.dumps(json.loads(self.profile.to_json()) | {"reference": more}, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reverse of `to_json`. Raises `DataError` where `text` is no profile."""
        profile = DataProfile.from_json(text)
        more = json.loads(text).get("reference", {})
        try:
            sample, estimator = more.get("sample"), more.get("estimator")
            return cls(
                profile=profile,
                importance={name: float(worth) for name, worth in more.get("importance", {}).items()},
                sample=None if sample is None else Sample(columns=tuple(sample["columns"]), codes=_codes(sample)),
                estimator=None if estimator is None else _ESTIMATORS[estimator["kind"]].from_dict(estimator),
                holdout_error=None if (error := more.get("holdout_error")) is None else float(error),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise DataError(
                f"not a model's data profile ({type(problem).__name__}: {problem}); it is damaged. Deploy an earlier version, or train again"
            ) from problem


def inputs_by_importance(reference: Reference) -> tuple[str, ...]:
    """The inputs, the most important one first; equal ones by name."""
    inputs = sorted(name for name, column in reference.profile.columns.items() if column.kind == "input")
    return tuple(sorted(inputs, key=lambda name: -reference.importance.get(name, 0.0)))


_ESTIMATORS: Mapping[str, type[Calibration] | type[ClassCalibration] | type[LabelCalibration] | type[LossModel]] = {
    "calibration": Calibration,
    "class calibration": ClassCalibration,
    "label calibration": LabelCalibration,
    "losses": LossModel,
}


def _codes(document: Mapping[str, Any]) -> Codes:
    return np.frombuffer(base64.b64decode(document["codes"], validate=True), np.uint8).reshape(document["shape"])
