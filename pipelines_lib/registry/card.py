"""The model card: what a person should know of a version before relying on it (Mitchell et al., Model Cards for Model Reporting, 2019)."""

from collections.abc import Mapping

from pipelines_lib.registry.package import Manifest
from pipelines_lib.use_case import Label, UseCase
from pipelines_lib.use_case.base import duration_text


def model_card(
    use_case: UseCase,
    manifest: Manifest,
    *,
    sizes: Mapping[str, int],
    settings: Mapping[str, object],
    best_epoch: int,
) -> str:
    """Markdown; `sizes` are the rows on each side of the split.

    It says nothing of other versions, so that registering the same model again, later, gives the same card.
    """
    snapshot = manifest.snapshot
    lines = [
        f"# {use_case.title}",
        "",
        use_case.description.strip() or f"Predicts {_predicted(use_case.label)}.",
        "",
        f"- Use case `{use_case.name}`, owner {use_case.owner}",
        f"- Task: {use_case.task}{_classes(manifest)}",
        f"- Labelled rows: {snapshot.n_rows:,} of {snapshot.partitions[0]} … {snapshot.partitions[-1]}",
        f"- Sides: {', '.join(f'{n:,} {side}' for side, n in sizes.items())}, split by {use_case.split.by}",
        f"- Snapshot `{snapshot.content_hash[:16]}`, table version {snapshot.version}; MLflow run `{manifest.mlflow_run_id}`",
        f"- Weights of epoch {best_epoch}; settings: {', '.join(f'{name} {value}' for name, value in settings.items())}",
        "",
        "## Inputs",
        "",
        "| feature | type |",
        "|---|---|",
        *(f"| `{feature.name}` | {feature.type} |" for feature in manifest.features),
        "",
        "A missing number counts as the training rows' median; a category seen less than twice in training counts as unknown.",
        *_fitted(use_case),
        "",
        "## On the hold-out",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in sorted(manifest.metrics.items())),
        "",
        "Not examined: subgroups of the rows, and what happens to people who are predicted wrongly.",
        "",
    ]
    return "\n".join(lines)


def _predicted(label: Label) -> str:
    if label.event_within is not None:
        return f"whether `{label.event_within.column}` follows within {duration_text(label.event_within.within)}"
    if label.rules is not None:
        return " or ".join(label.rules.classes)
    return f"`{label.column if label.join is None else label.join.column}`"


def _fitted(use_case: UseCase) -> list[str]:
    """What the fitted cleaning steps do instead, a sentence each."""
    sentences = []
    for step in use_case.clean:
        for name, statistic in (step.impute or {}).items():
            sentences.append(f"A missing `{name}` counts as the training rows' {statistic}.")
        if step.outliers is not None:
            done = {"clip": "are moved to the bound", "flag": "are flagged to the model", "to_missing": "count as missing"}[
                step.outliers.action
            ]
            sentences.append(f"Outliers of {', '.join(f'`{name}`' for name in step.outliers.columns)} ({step.outliers.method}) {done}.")
    return sentences


def _classes(manifest: Manifest) -> str:
    if not manifest.classes:
        return ""
    positive = f", positive is `{manifest.positive}`" if manifest.positive is not None else ""
    shown = ", ".join(f"`{name}`" for name in manifest.classes[:20])
    return f" ({shown}{', …' if len(manifest.classes) > 20 else ''}{positive})"
