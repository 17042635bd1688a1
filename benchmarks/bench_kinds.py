"""What the kinds of models beside the one for tables reach on real data, next to gradient boosting on the same split.

OMP_NUM_THREADS=1 python benchmarks/bench_kinds.py [insects] [actg] [shop]     (needs ../shared/data; some minutes)

Figures are means over three seeds of the split and of the training, ± their standard deviation.
"""

import datetime as dt
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from pipelines_lib.evaluation.uplift import of_treatment
from pipelines_lib.features.history import Past, history
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.checkpoints import Checkpoints
from pipelines_lib.training.dataset import rows_of
from pipelines_lib.training.distributed import World
from pipelines_lib.training.loop import Loop
from pipelines_lib.training.models import build
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import UseCase

DATA = Path(__file__).parents[2] / "shared" / "data"
SEEDS = (0, 1, 2)
TRAIN, VALIDATION, TEST = range(3)


def main(wanted: list[str]) -> None:
    """Print the figures of each data set as JSON."""
    torch.set_num_threads(1)
    for name, measure in (("insects", insects), ("actg", actg), ("shop", shop)):
        if not wanted or name in wanted:
            found = pd.DataFrame(list(measure()))
            print(json.dumps({name: {key: f"{found[key].mean():.4f} ± {found[key].std():.4f}" for key in found}}), flush=True)


def insects() -> Iterator[dict[str, float]]:
    """Which of six insects flies by: 7 frequencies, and the spectrum of its wing beat as a window of 26 steps."""
    frame = pd.read_csv(DATA / "insects_gradual.csv", header=None)
    names = [f"frequency_{i}" for i in range(7)] + [f"spectrum_{i}" for i in range(26)]
    frame.columns = [*names, "label"]
    types = dict.fromkeys(names, "number")
    labels = frame["label"].astype(str).to_numpy()
    spectrum = {"spectrum": "spectrum_{step}"}
    models = {
        "gru": {"type": "sequence", "series": spectrum, "hidden": [64, 64]},
        "transformer": {"type": "sequence", "series": spectrum, "encoder": "transformer", "layers": 2, "hidden": [64, 64]},
        "tabular": {"hidden": [128, 64]},
    }
    for seed in SEEDS:
        sides = np.random.default_rng(seed).choice(3, len(frame), p=[0.6, 0.15, 0.25])
        boosted = HistGradientBoostingClassifier(random_state=seed).fit(frame[names][sides != TEST], labels[sides != TEST])
        row = {"boosting": float((boosted.predict(frame[names][sides == TEST]) == labels[sides == TEST]).mean())}
        for name, model in models.items():
            fitted = Fitted.on(frame, types, labels, sides, model=model, seed=seed, task="multiclass", epochs=20)
            said = np.array(fitted.objective.classes)[fitted.scores(frame[sides == TEST]).argmax(1)]
            row[name] = float((said == labels[sides == TEST]).mean())
        yield row


def actg() -> Iterator[dict[str, float]]:
    """Who of 2,139 people with HIV does better on which of three therapies than on zidovudine alone (randomised)."""
    # The header is one field short: the first column is the row's number.
    frame = pd.read_csv(DATA / "actg175.csv", index_col=0)
    numbers = [
        "age",
        "wtkg",
        "hemo",
        "homo",
        "drugs",
        "karnof",
        "oprior",
        "z30",
        "preanti",
        "race",
        "gender",
        "str2",
        "strat",
        "symptom",
        "cd40",
        "cd80",
    ]
    frame["arms"] = frame["arms"].astype(str)
    labels = np.where(frame["cens"] == 0, "well", "ill")
    types = {**dict.fromkeys(numbers, "number"), "arms": "string"}
    model = {"type": "uplift", "control": "0", "hidden": [32, 16], "dropout": 0.3}
    for seed in SEEDS:
        sides = np.random.default_rng(seed).choice(3, len(frame), p=[0.5, 0.15, 0.35])
        test = sides == TEST
        inputs = pd.get_dummies(frame[[*numbers, "arms"]])
        boosted = HistGradientBoostingClassifier(random_state=seed, max_depth=3, learning_rate=0.05)
        boosted.fit(inputs[~test], labels[~test])
        row = {"boosting_auc": float(roc_auc_score(labels[test] == "well", boosted.predict_proba(inputs[test])[:, 1]))}
        fitted = Fitted.on(frame, types, labels, sides, model=model, seed=seed, epochs=40, patience=5)
        answers = {arm: fitted.scores(frame[test].assign(arms=arm))[:, 1] for arm in "0123"}
        own = np.choose(frame["arms"][test].astype(int), [answers[arm] for arm in "0123"])
        row["auc"] = float(roc_auc_score(labels[test] == "well", own))
        for arm in "123":
            mine = frame["arms"][test].isin(["0", arm]).to_numpy()
            outcome = (labels[test] == "well").astype(float)[mine]
            uplift = (answers[arm] - answers["0"]).astype(float)[mine]
            found = of_treatment(outcome, (frame["arms"][test] == arm).to_numpy()[mine], uplift, resamples=300, seed=seed)
            row |= {f"{name}_{arm}": float(value) for name, value in found.items() if value is not None}
        yield row


def shop() -> Iterator[dict[str, float]]:
    """Whether a purchase follows in the session: by page, platform and hour, and by what the user did in the 30 days before."""
    frame = pd.read_csv(DATA / "ecom_clickstream.csv", parse_dates=["timestamp"]).drop_duplicates().reset_index(drop=True)
    events = pa.table(
        {
            "user": pa.array(frame["user_id"]),
            "at": pa.array(frame["timestamp"].astype("datetime64[us]")),
            "event": pa.array(frame["event"]),
        }
    )
    kinds = ("product_view", "add_to_cart", "checkout")
    past = Past(entity="user", time="at", within=dt.timedelta(days=30), kind="event", kinds=kinds, positive="purchase", item="event")
    made = history(events, events, past).to_pandas()
    frame = pd.concat([frame, made], axis=1)
    frame["hour"] = frame["timestamp"].dt.hour.astype(float)
    bought = frame["timestamp"].where(frame["event"] == "purchase").groupby(frame["session_id"]).transform("max")
    labels = np.where(bought > frame["timestamp"], "buys", "leaves")
    user = ["user_cohort", "user_lifecycle", "acquisition_channel"]
    types = {**dict.fromkeys([*user, "event", "platform"], "string"), "hour": "number"}
    with_history = {**types, **dict.fromkeys(made.columns, "number")}
    order = np.argsort(frame["timestamp"].to_numpy(), kind="stable")
    frame, labels = frame.iloc[order].reset_index(drop=True), labels[order]
    left = (frame["event"] != "purchase").to_numpy()
    frame, labels = frame[left].reset_index(drop=True), labels[left]
    days = frame["timestamp"].dt.normalize()
    edges = days.quantile([0.6, 0.75])
    sides = np.where(days <= edges.iloc[0], TRAIN, np.where(days <= edges.iloc[1], VALIDATION, TEST))
    test = sides == TEST
    for seed in SEEDS:
        row = {}
        for name, columns in (("", types), ("_with_history", with_history)):
            inputs = frame[list(columns)].apply(lambda c: c.astype("category") if c.dtype.kind not in "fi" else c)
            boosted = HistGradientBoostingClassifier(random_state=seed, categorical_features="from_dtype")
            boosted.fit(inputs[~test], labels[~test])
            row[f"boosting{name}"] = float(roc_auc_score(labels[test] == "buys", boosted.predict_proba(inputs[test])[:, 0]))
            tower = [*user, *(column for column in made.columns if column in columns)]
            ranking = {"type": "ranking", "user": tower, "item": ["event"], "hidden": [32, 16]}
            for kind, model in (("ranking", ranking), ("tabular", {"hidden": [64, 32]})):
                scores = Fitted.on(frame, columns, labels, sides, model=model, seed=seed, epochs=15).scores(frame[test])
                row[f"{kind}{name}"] = float(roc_auc_score(labels[test] == "buys", scores[:, 0]))
        yield row


@dataclass
class Fitted:
    """A model that Sluice's own loop trained, behind its transform."""

    transform: FeatureTransform
    module: torch.nn.Module
    objective: Objective

    @classmethod
    def on(cls, frame, types, labels, sides, *, model, seed, task="binary", epochs=10, patience=3) -> "Fitted":
        """Trained on the rows of the side TRAIN, stopped by those of VALIDATION."""
        use_case = _use_case(
            types, labels, task, {"model": model, "epochs": epochs, "patience": patience, "learning_rate": 2e-3, "seed": seed}
        )
        transform = FeatureTransform.fit(_columns(frame[sides == TRAIN], types), types, (), use_case.series)
        objective = Objective(tuple(sorted(set(labels))))
        parts = [np.flatnonzero(sides == side) for side in (TRAIN, VALIDATION)]
        arrays = [transform.apply(_columns(frame.iloc[part], types)) for part in parts]
        train, validation = (
            rows_of(inputs, objective.encode(pa.array(labels[part])), pa.chunked_array([part.astype(str)]))
            for inputs, part in zip(arrays, parts, strict=True)
        )
        torch.manual_seed(seed)
        sample = {name: array[:8] for name, array in arrays[0].items()}
        module = build(use_case, transform, objective.n_outputs, sample=sample, hooks=lambda: ModuleType("none"))
        world = World()
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(folder, fingerprint="bench", keep=1, group=world.group())
            loop = Loop(
                module, objective=objective, train=train, validation=validation, settings=use_case.training, world=world,
                checkpoints=checkpoints, observers=(),
            )  # fmt: skip
            loop.run()
            module.load_state_dict(loop.weights())
        return cls(transform, objective.scoring(module).eval(), objective)

    @torch.no_grad()
    def scores(self, rows: pd.DataFrame) -> np.ndarray:
        """[n, C]."""
        arrays = self.transform.apply(_columns(rows, self.transform.columns))
        return self.module(**{name: torch.from_numpy(array) for name, array in arrays.items()}).numpy()


def _columns(rows: pd.DataFrame, types) -> dict:
    return {name: rows[name].to_numpy(float) if kind == "number" else rows[name].tolist() for name, kind in types.items()}


def _use_case(types, labels, task, training) -> UseCase:
    columns = {name: {"type": kind, "role": "treatment" if name == "arms" else "feature"} for name, kind in types.items()}
    return UseCase.model_validate(
        {
            "name": "bench", "title": "Bench", "owner": "bench", "task": task, "start": "2026-01-01",
            "source": {"path": "{home}/{partition}.csv"},
            "columns": {**columns, "label_": {"type": "string", "role": "label"}},
            "label": {"column": "label_", **({"positive": max(labels)} if task == "binary" else {})},
            "gate": {"metric": "accuracy", "floor": 0.1},
            "training": training,
        }
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
