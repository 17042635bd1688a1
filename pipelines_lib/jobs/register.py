"""Assemble the package of a model that passed its gates, and register it as the challenger.

python -m pipelines_lib.jobs.register --spec spec.json
"""

from typing import Any

from mlflow import MlflowClient

from pipelines_lib.contracts import GateResult, JobResult
from pipelines_lib.errors import DataError
from pipelines_lib.evaluation.evidence import Evidence
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.registry import tracking
from pipelines_lib.registry.card import model_card
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.registry.package import CARD, MODEL, TRANSFORM, Manifest, Package
from pipelines_lib.store import StorePath, read_json


def main(stage: Stage) -> JobResult:
    """Write the package, open it as the service will, and register it."""
    verdict = stage.result_of("gate")
    if verdict.status == "held":
        raise DataError(f"the gate held this model, so there is nothing to register: {verdict.reason}")
    trained, evaluated = (_folder(stage, name) for name in ("train", "evaluate"))
    manifest = Manifest.model_validate(read_json(evaluated / "manifest.json"))
    card = _card(stage, manifest, trained, evaluated)
    folder = Package.write(
        stage.root / "packages",
        stage.spec.run_id,
        manifest,
        {
            **{name: (trained / name).read_bytes() for name in (MODEL, TRANSFORM)},
            **{name: (evaluated / name).read_bytes() for name in manifest.names if name not in (MODEL, TRANSFORM, CARD)},
            CARD: card.encode(),
        },
    )
    Package.open(folder)
    client = tracking.connect(stage.profile.tracking_uri)
    tags = _told(client, stage, manifest, card, verdict)
    package = stage.below(folder)
    model = ModelRegistry(client, stage.use_case.name).register(
        package,
        folder.resolve().as_uri(),
        manifest.mlflow_run_id,
        stage.spec.run_id,
        tags=tags,
        description=f"{stage.use_case.title}, trained on data up to {manifest.snapshot.partitions[-1]}. What to know before relying on it: {CARD} among the run's artefacts",
    )
    return JobResult(
        stage="register",
        reason=f"version {model.version} is registered",
        figures={"version": model.version, "bytes": sum(path.stat().st_size for path in folder.iterdir())},
        outputs={"model": model.model_dump(mode="json")},
        links=tracking.page(stage.profile.mlflow_url, client.get_run(manifest.mlflow_run_id)),
    )


def _folder(stage: Stage, name: str) -> StorePath:
    return stage.store / str(stage.result_of(name).outputs["folder"])


def _told(client: MlflowClient, stage: Stage, manifest: Manifest, card: str, judged: JobResult) -> dict[str, str]:
    """Give the MLflow run the verdicts and the card; returns the version's tags: where it comes from, and what each gate said."""
    found: Any = judged.figures["gates"]
    results = [GateResult.model_validate(result) for result in found]
    report = (stage.store / judged.links["Evaluation"]).read_text(encoding="utf-8")
    run_id = manifest.mlflow_run_id
    verdicts = tracking.log_verdicts(client, run_id, results, report)
    tracking.log_texts(client, run_id, {CARD: card})
    of_run = tracking.retried(lambda: client.get_run(run_id)).data.tags
    commit = of_run.get("mlflow.source.git.commit")
    return {
        "sluice.snapshot": manifest.snapshot.content_hash,
        "sluice.partition": stage.spec.partition_key,
        **({"sluice.commit": commit} if commit else {}),
        **verdicts,
    }


def _card(stage: Stage, manifest: Manifest, trained: StorePath, evaluated: StorePath) -> str:
    training: Any = read_json(trained / "training.json")
    evaluation: Any = read_json(evaluated / "evaluation.json")
    return model_card(
        stage.use_case,
        manifest,
        sizes=evaluation["sizes"],
        settings=training["settings"],
        best_epoch=training["best_epoch"],
        evidence=Evidence.model_validate(evaluation["evidence"]),
    )


if __name__ == "__main__":
    run_stage(main)
