"""Assemble the package of a model that passed its gates, and register it as the challenger.

python -m pipelines_lib.jobs.register --spec spec.json
"""

from typing import Any

from mlflow.entities import Run

from pipelines_lib.contracts import GateResult, JobResult
from pipelines_lib.errors import DataError
from pipelines_lib.evaluation.evidence import Evidence
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.registry import tracking
from pipelines_lib.registry.card import model_card
from pipelines_lib.registry.logged_model import log_model
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
    package, where, name = Package.open(folder), stage.below(folder), stage.use_case.name
    client = tracking.connect(stage.profile.tracking_uri)
    run = tracking.retried(lambda: client.get_run(manifest.mlflow_run_id))
    report = (stage.store / verdict.links["Evaluation"]).read_text(encoding="utf-8")
    verdicts = tracking.log_verdicts(client, run.info.run_id, _results(verdict), report)
    tracking.log_texts(client, run.info.run_id, {CARD: card})
    logged = log_model(client, run, package, name, where)
    model = ModelRegistry(client, name).register(
        where,
        logged.artifact_location,
        run.info.run_id,
        stage.spec.run_id,
        model_id=logged.model_id,
        tags={**_origin(stage, run, manifest), **verdicts},
        description=f"{stage.use_case.title}, trained on data up to {manifest.snapshot.partitions[-1]}. What to know before relying on it: {CARD} among the run's artefacts",
    )
    return JobResult(
        stage="register",
        reason=f"version {model.version} is registered",
        figures={"version": model.version, "bytes": sum(path.stat().st_size for path in folder.iterdir())},
        outputs={"model": model.model_dump(mode="json")},
        links=tracking.page(stage.profile.mlflow_url, run),
    )


def _folder(stage: Stage, name: str) -> StorePath:
    return stage.store / str(stage.result_of(name).outputs["folder"])


def _results(judged: JobResult) -> list[GateResult]:
    found: Any = judged.figures["gates"]
    return [GateResult.model_validate(result) for result in found]


def _origin(stage: Stage, run: Run, manifest: Manifest) -> dict[str, str]:
    """Tags of the version: where it comes from."""
    commit = run.data.tags.get("mlflow.source.git.commit")
    found = {"sluice.snapshot": manifest.snapshot.content_hash, "sluice.partition": stage.spec.partition_key}
    return found | ({"sluice.commit": commit} if commit else {})


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
