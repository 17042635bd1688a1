"""Score the hold-out with the new model and with the champion, compare them, and log the training to MLflow.

python -m pipelines_lib.jobs.evaluate --spec spec.json

A training is logged while it runs; what the tracking server missed, because it was away, is logged here.
"""

import logging
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from mlflow import MlflowClient
from mlflow.entities import Run
from numpy.typing import NDArray

from pipelines_lib import cost
from pipelines_lib.contracts import LATEST_REPORT, STAGES, JobResult, ModelRef, Pipeline
from pipelines_lib.data.sides import TEST, TRAIN, VALIDATION
from pipelines_lib.data.snapshot import Snapshot, load
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.evaluation import groups, metrics, probes, uplift
from pipelines_lib.evaluation.compare import Comparison, standard_error
from pipelines_lib.evaluation.evidence import Evidence
from pipelines_lib.evaluation.holdout import (
    compare_with,
    entities_of,
    items_of,
    known_rows,
    known_split,
    n_owners,
    sample,
    scores_of,
    truth_of,
)
from pipelines_lib.evaluation.metrics import Truth
from pipelines_lib.evaluation.page import evaluation_page
from pipelines_lib.evaluation.pictures import bars, losses, parts
from pipelines_lib.evaluation.pictures import of_answers as pictures_of
from pipelines_lib.features.arrow import Features, feature_columns
from pipelines_lib.jobs.snapshot import snapshot_of
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.monitoring import joint
from pipelines_lib.monitoring.encoding import MAX_CODES, Encoder
from pipelines_lib.monitoring.estimate import LOSSES, Calibration, ClassCalibration, Estimator, LabelCalibration, LossModel
from pipelines_lib.monitoring.reference import Reference, Sample, inputs_by_importance
from pipelines_lib.monitoring.sketch import DataProfile, profile_columns
from pipelines_lib.registry import tracking
from pipelines_lib.registry.catalogue import Catalogue
from pipelines_lib.registry.journal import JOURNAL, Journal, artifacts_of, identity, parameters
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.registry.package import MODEL, TRANSFORM, Feature, Manifest, Package, Recommends, Scorer, predicted
from pipelines_lib.store import StorePath, read_json, write_bytes, write_json, write_text
from pipelines_lib.use_case import METRICS, Split, UseCase

log = logging.getLogger("sluice")

_MIN_TO_ESTIMATE = 50
"""Rows that the model has not learned from, below which nothing is said of its performance before the truth comes."""


def main(stage: Stage) -> JobResult:
    """Everything that the gate and the package need to know of the new model."""
    challenger = _challenger(stage)
    client = tracking.connect(stage.profile.tracking_uri)
    champion = ModelRegistry(client, stage.use_case.name).champion()
    evidence = _evidence(stage, challenger, champion)
    run = _logged(client, stage, challenger, evidence)
    importance = probes.importance(_probe(stage.use_case, challenger, probes.importance_rows(challenger.test)))
    pictures = _pictures(stage.use_case, challenger, evidence, importance)
    page = _page(stage, challenger, evidence, pictures)
    tracking.log_texts(
        client, run.info.run_id, {tracking.EVALUATION: page, **{f"evaluation/{name}.svg": svg for name, svg in pictures.items()}}
    )
    write_text(stage.folder / "report.html", page)
    _write(stage, challenger, evidence, run, pictures, importance=importance)
    return JobResult(
        stage="evaluate",
        reason=_sentence(stage.use_case.gate.metric, evidence),
        figures={"holdout_rows": evidence.n_rows, **challenger.figures, **_against(evidence.comparison)},
        outputs={"folder": stage.below(stage.folder), "mlflow_run_id": run.info.run_id, "champion": evidence.champion},
        links={**tracking.page(stage.profile.mlflow_url, run), "Evaluation": stage.below(stage.folder / "report.html")},
    )


@dataclass(frozen=True)
class Challenger:
    """The new model, and its answers to the hold-out."""

    folder: StorePath
    """What the stage train left."""
    snapshot: Snapshot
    scorer: Scorer
    training: dict[str, Any]
    """What the stage train says of itself: `settings`, `classes`, `history`, `best_epoch`."""
    test: pa.Table
    scores: NDArray[np.float32]
    """Of the rows of `test` [n, C]."""
    truth: Truth
    """Of the rows of `test`."""
    operating_point: float | None
    """Score from which on a yes gives the best F1 of the validation rows; binary tasks only."""
    figures: dict[str, float | None]
    """Every metric of the task, of lists and of a treatment's uplift; None where the hold-out leaves it undefined."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The scores' columns; empty for a regression."""
        return tuple(self.training["classes"])


def _challenger(stage: Stage) -> Challenger:
    folder = stage.store / str(stage.result_of("train").outputs["folder"])
    training: Any = read_json(folder / "training.json")
    snapshot = load(stage.use_case, Tables(stage.root), snapshot_of(stage))
    scorer = Scorer.open(folder)
    test = snapshot.side(TEST)
    scores = scores_of(scorer, test, stage.use_case.feature_types)
    classes = tuple(training["classes"])
    truth = truth_of(stage.use_case, test, classes)
    point = _operating_point(stage.use_case, snapshot, scorer, classes)
    figures = metrics.values(stage.use_case.metrics, truth, scores, point)
    if stage.use_case.ranks_lists:
        figures["coverage"] = metrics.coverage(items_of(stage.use_case, test), truth, scores)
    figures |= uplift.figures(stage.use_case, test, truth, scorer)
    return Challenger(folder, snapshot, scorer, training, test, scores, truth, point, figures)


def _operating_point(use_case: UseCase, snapshot: Snapshot, scorer: Scorer, classes: tuple[str, ...]) -> float | None:
    """Of the validation rows: chosen on the hold-out, it would make the F1 there look better than it is."""
    if use_case.task != "binary":
        return None
    types = use_case.feature_types
    rows = snapshot.select(list(dict.fromkeys([*types, "label", *filter(None, [use_case.entity])])), VALIDATION)
    return metrics.operating_point(truth_of(use_case, rows, classes), scores_of(scorer, rows, types))


def _evidence(stage: Stage, challenger: Challenger, champion: ModelRef | None) -> Evidence:
    """What the gates will look at; the champion is scored again, on the same rows."""
    metric = challenger.figures[stage.use_case.gate.metric]
    comparison, incomparable, end = None, None, None
    if champion is not None:
        try:
            package = Package.open(stage.store / champion.package)
            end = package.manifest.snapshot.partitions[-1]
            if metric is None:
                raise DataError(f"{stage.use_case.gate.metric} is undefined on this hold-out")
            comparison = compare_with(
                package,
                stage.use_case,
                challenger.test,
                challenger.classes,
                challenger.scores,
                operating_point=challenger.operating_point,
            )
        except DataError as error:
            # A champion that can't be scored must not keep every model after it from being judged: the gate decides.
            incomparable = str(error)
    return Evidence(
        n_rows=challenger.test.num_rows,
        n_owners=n_owners(stage.use_case, challenger.test),
        metric=metric,
        comparison=comparison,
        champion=champion.version if champion else None,
        incomparable=incomparable,
        champion_end=end,
        known_rows=known_rows(stage.use_case, challenger.snapshot),
        **_asked(stage.use_case, challenger),
        milliseconds=probes.milliseconds(stage.use_case, challenger.test, challenger.scorer),
        n_bytes=sum((challenger.folder / name).stat().st_size for name in (MODEL, TRANSFORM)),
        **_price(stage),
    )


def _asked(use_case: UseCase, challenger: Challenger) -> dict[str, Any]:
    """What the gates that a use case may ask for look at."""
    test, truth, scores, point = challenger.test, challenger.truth, challenger.scores, challenger.operating_point
    impact, opportunity = groups.fairness(use_case, test, truth, scores, point)
    error = challenger.figures.get("calibration_error")
    asked = use_case.gate.robustness
    worse = [] if asked is None else probes.robustness(_probe(use_case, challenger, asked.rows), asked)
    return {
        "slices": groups.slices(use_case, test, truth, scores, point),
        "calibration": error,
        "calibration_by_chance": None if error is None else metrics.calibration_by_chance(truth, scores, entities_of(use_case, test)),
        "robustness": worse,
        "impact": impact,
        "opportunity": opportunity,
    }


def _probe(use_case: UseCase, challenger: Challenger, rows: int) -> probes.Probe:
    return probes.Probe(
        use_case, challenger.test, challenger.scorer, challenger.classes, operating_point=challenger.operating_point, rows=rows
    )


def _price(stage: Stage) -> dict[str, Any]:
    """What the run has cost in the profile's cloud until here."""
    cloud = stage.profile.cloud
    if cloud is None:
        return {}
    return {"cost": _cost(stage)[f"cost_{cloud}"], "currency": stage.profile.prices[cloud].currency}


def _logged(client: MlflowClient, stage: Stage, challenger: Challenger, evidence: Evidence) -> Run:
    """The MLflow run of this training, with its settings, curves and figures: what its tracker could not log, too."""
    experiment = tracking.experiment(client, stage.use_case.name, artifacts_of(stage.root, stage.profile.tracking_uri))
    ref, history = challenger.snapshot.ref, challenger.training["history"]
    settings = challenger.training["settings"]
    trained = identity(settings, stage.use_case.name, stage.use_case.task, ref)
    tags = {"sluice.use_case": stage.use_case.name, **_drift_report(stage)}
    run = tracking.run_of(client, experiment, stage.spec.run_id, trained, tags)
    points = {f"holdout_{name}": figure for name, figure in challenger.figures.items()} | _against(evidence.comparison)
    points |= {f"{side}_rows": n for side, n in challenger.snapshot.sizes().items()}
    points |= _cost(stage)
    tracking.catch_up(client, run, Journal.read(challenger.folder / JOURNAL))
    tracking.log(
        client,
        run,
        params=parameters(settings, stage.use_case.name, stage.use_case.task),
        metrics={name: value for name, value in points.items() if value is not None},
        curves={name: [(epoch["epoch"], epoch[name]) for epoch in history] for name in ("train_loss", "validation_loss")},
        tags={
            "sluice.partition": stage.spec.partition_key,
            "sluice.snapshot": ref.content_hash,
            "sluice.table_version": str(ref.version),
            "sluice.champion": str(evidence.champion),
            "sluice.reason": str(stage.spec.params.get("reason") or "")[:500],
            # The stage register tells of a model that passed, which spares the stage gate MLflow's long import.
            "sluice.gate": "not judged yet",
        },
    )
    return run


def _pictures(use_case: UseCase, challenger: Challenger, evidence: Evidence, importance: dict[str, float]) -> dict[str, str]:
    """Name → SVG."""
    private = use_case.label.column in use_case.private()
    found = pictures_of(challenger.truth, challenger.scores, challenger.operating_point, private=private)
    if any(part.figure is not None for part in evidence.slices):
        floors = {asked.column: use_case.gate.floor if asked.floor is None else asked.floor for asked in use_case.gate.slices}
        found["slices"] = parts(evidence.slices, floors, f"{use_case.gate.metric} of parts of the hold-out")
    found["losses"] = losses(challenger.training["history"])
    found["importance"] = bars(importance, f"loss of {use_case.gate.metric}")
    return found


def _drift_report(stage: Stage) -> dict[str, str]:
    """Where a person who looks at the run finds what became of its model: the page of the newest partition."""
    airflow = stage.profile.airflow_url
    return {} if airflow is None else {"sluice.drift_report": f"{airflow.rstrip('/')}/sluice/files/{stage.use_case.name}/{LATEST_REPORT}"}


def _page(stage: Stage, challenger: Challenger, evidence: Evidence, pictures: dict[str, str]) -> str:
    title = f"{stage.use_case.title}: evaluation of {stage.spec.partition_key}"
    metric = stage.use_case.gate.metric
    return evaluation_page(title, metric=metric, evidence=evidence, figures=challenger.figures, pictures=pictures)


def _write(
    stage: Stage, challenger: Challenger, evidence: Evidence, run: Run, pictures: dict[str, str], *, importance: dict[str, float]
) -> None:
    """The parts of the package that come from here, and the evidence for the gate."""
    use_case, snapshot = stage.use_case, challenger.snapshot
    manifest = Manifest(
        use_case=use_case.name,
        task=use_case.task,
        classes=challenger.classes,
        positive=use_case.label.positive,
        separator=use_case.label.separator,
        features=tuple(Feature(name=name, type=use_case.columns[name].type) for name in use_case.features()),
        metrics={name: figure for name, figure in challenger.figures.items() if figure is not None},
        snapshot=snapshot.ref,
        split=_split(stage, snapshot),
        entity=use_case.entity,
        operating_point=challenger.operating_point,
        recommends=_recommends(use_case),
        mlflow_run_id=run.info.run_id,
    )
    write_json(stage.folder / "manifest.json", manifest)
    if (asked := manifest.recommends) is not None:
        catalogue = Catalogue.of(snapshot, user=asked.user.name, item=asked.item.name, columns=asked.columns)
        for name, data in catalogue.files().items():
            write_bytes(stage.folder / name, data)
    write_json(stage.folder / "holdout.json", sample(use_case, challenger.test, challenger.scorer))
    write_text(stage.folder / "profile.json", _reference(stage, challenger, manifest, importance).to_json())
    document: dict[str, Any] = {
        "evidence": evidence.model_dump(mode="json"),
        "sizes": dict(snapshot.sizes()),
        "figures": challenger.figures,
        "pictures": pictures,
    }
    write_json(stage.folder / "evaluation.json", document)


def _recommends(use_case: UseCase) -> Recommends | None:
    asked, user = use_case.deployment.recommend, use_case.entity
    if asked is None or user is None:
        return None
    of_user, of_item = (Feature(name=name, type=use_case.columns[name].type) for name in (user, asked.item))
    return Recommends(user=of_user, item=of_item, columns=use_case.item_columns)


def _split(stage: Stage, snapshot: Snapshot) -> Split | None:
    decides = ["row_id", "partition_key", "label", "split", *filter(None, [stage.use_case.owner_column])]
    split = known_split(stage.use_case, snapshot.select(decides))
    if split is None:
        log.warning(
            "some rows were prepared under other `split` settings than those of now, so no later model can be compared with this one; "
            "run %s__data again for %s … %s, then this training",
            *(stage.use_case.name, snapshot.ref.partitions[0], snapshot.ref.partitions[-1]),
        )
    return split


def _reference(stage: Stage, challenger: Challenger, manifest: Manifest, importance: dict[str, float]) -> Reference:
    """What monitoring will compare with.

    Inputs of the training rows. Scores of rows that the model has not learned from: on those it has, it is too sure of itself.
    """
    use_case, snapshot = stage.use_case, challenger.snapshot
    types = use_case.feature_types
    inputs = profile_columns(Features(lambda name: snapshot.column(name, TRAIN), snapshot.column_names, types), types)
    unseen = snapshot.select([*types, "label"], VALIDATION, TEST)
    all_scores = scores_of(challenger.scorer, unseen, types)
    predictions, scores = predicted(manifest, all_scores)
    answers = profile_columns({}, {}, scores=scores, predictions=predictions if manifest.classes else None)
    profile = DataProfile(inputs.n_rows, {**inputs.columns, **answers.columns})
    worth = _by_column(use_case, importance)
    known = Reference(profile=profile, importance=worth)
    columns = inputs_by_importance(known)
    return replace(
        known,
        sample=_sample(use_case, snapshot, profile, columns),
        estimator=_estimator(use_case, profile, columns, unseen, manifest=manifest, all_scores=all_scores),
        holdout_error=standard_error(
            use_case.gate.metric,
            challenger.truth,
            challenger.scores,
            groups=entities_of(use_case, challenger.test),
            operating_point=challenger.operating_point,
        ),
    )


def _by_column(use_case: UseCase, importance: dict[str, float]) -> dict[str, float]:
    """Importance of a window of a sensor shared out among its columns."""
    of_windows = {
        column: importance[name] / len(columns) for name, columns in use_case.series.items() if name in importance for column in columns
    }
    return of_windows | {name: worth for name, worth in importance.items() if name not in use_case.series}


def _sample(use_case: UseCase, snapshot: Snapshot, profile: DataProfile, columns: tuple[str, ...]) -> Sample | None:
    """Training rows from all over the snapshot, of what is not about a person."""
    columns = tuple(name for name in columns if name not in use_case.private())[:MAX_CODES]
    if not columns or not profile.n_rows:
        return None
    places = pa.array(np.unique(np.linspace(0, profile.n_rows - 1, min(joint.ROWS, profile.n_rows)).astype(np.int64)))
    rows = pa.table({name: snapshot.column(name, TRAIN).take(places) for name in columns})
    types = {name: profile.columns[name].type for name in columns}
    return Sample(columns=columns, codes=Encoder(profile, columns).encode(feature_columns(rows, types), rows.num_rows))


def _estimator(
    use_case: UseCase,
    profile: DataProfile,
    columns: tuple[str, ...],
    unseen: pa.Table,
    *,
    manifest: Manifest,
    all_scores: NDArray[np.float32],
) -> Estimator | None:
    """How performance will be told where the truth has not come; None where it can't be."""
    several = use_case.label.separator is not None
    if unseen.num_rows < _MIN_TO_ESTIMATE or (several and not manifest.decision.keeps_scores):
        return None
    if manifest.decision.keeps_scores:
        chances, labels = all_scores.astype(np.float64), truth_of(use_case, unseen, manifest.classes).labels
        return LabelCalibration.fit(chances, labels.astype(bool)) if several else ClassCalibration.fit(chances, labels.astype(np.int64))
    predictions, scores = predicted(manifest, all_scores)
    if use_case.task == "regression":
        read = feature_columns(unseen, use_case.feature_types) | {"score": scores}
        encoder = Encoder(profile, ("score", *columns))
        missing = pc.cast(unseen["label"], pa.float64(), safe=False).to_numpy() - scores
        return LossModel.fit(
            [name for name in METRICS["regression"] if name in LOSSES], encoder.spread(encoder.encode(read, unseen.num_rows)), missing
        )
    labels = unseen["label"].to_numpy()
    came = labels == (np.asarray(predictions, object) if use_case.label.positive is None else use_case.label.positive)
    return Calibration.fit(scores, came.astype(np.float64))


def _against(comparison: Comparison | None) -> dict[str, float | None]:
    if comparison is None:
        return {}
    return {
        "compared_rows": comparison.n_rows,
        "champion": comparison.champion,
        "difference": comparison.difference,
        "difference_lower": comparison.lower,
        "difference_upper": comparison.upper,
    }


def _cost(stage: Stage) -> dict[str, float | None]:
    """What the stages before this one used and cost, all tries; of that, what was lost."""
    # Not those after it, which have run where this one runs again: the same model would have another cost each time.
    earlier = list(takewhile(lambda name: name != stage.spec.stage, STAGES[Pipeline.TRAINING]))
    before = [bill for name, bill in cost.of_run(stage.run_folder, stage.profile.prices).items() if name in earlier]
    together = sum(before, cost.Bill())
    used = ("seconds", "cpu_seconds", "gpu_seconds", "memory_gib_seconds", "wasted_seconds")
    return {
        **{f"used_{name}": getattr(together, name) for name in used},
        **{f"cost_{cloud}": amount for cloud, amount in together.cost.items()},
        **{f"cost_wasted_{cloud}": amount for cloud, amount in together.wasted.items()},
    }


def _sentence(metric: str, evidence: Evidence) -> str:
    own = f"{metric} {'undefined' if evidence.metric is None else f'{evidence.metric:.4f}'} on {evidence.n_rows:,} rows"
    if evidence.comparison is not None:
        return f"{own}, the champion has {evidence.comparison.champion:.4f}"
    return own + (f"; the champion can't be compared: {evidence.incomparable}" if evidence.incomparable else "; no champion yet")


if __name__ == "__main__":
    run_stage(main)
