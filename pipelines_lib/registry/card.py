"""The model card: what a person should know of a version before relying on it (Mitchell et al., Model Cards for Model Reporting, 2019)."""

from collections.abc import Mapping

from pipelines_lib.evaluation.evidence import Evidence
from pipelines_lib.registry.package import Manifest
from pipelines_lib.use_case import Label, UseCase
from pipelines_lib.use_case.base import duration_text

_FEW_ROWS = 1000


def model_card(
    use_case: UseCase,
    manifest: Manifest,
    *,
    sizes: Mapping[str, int],
    settings: Mapping[str, object],
    best_epoch: int,
    evidence: Evidence,
) -> str:
    """Markdown; `sizes` are the rows on each side of the split, `evidence` what its evaluation found.

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
        *_served(manifest, evidence),
        *_parts(evidence),
        "",
        "## Limits",
        "",
        *_limits(use_case, manifest, evidence),
        "",
    ]
    return "\n".join(lines)


def _served(manifest: Manifest, evidence: Evidence) -> list[str]:
    """From where on a yes is one, how large the model is, and what it cost."""
    said = []
    if manifest.operating_point is not None:
        said.append(f"- Operating point: a score of {manifest.operating_point:.4f} (the best F1 of the validation rows)")
    if evidence.n_bytes is not None:  # not the milliseconds: measured again, they would make another package of the same model
        said.append(f"- Graph and transform: {evidence.n_bytes:,} bytes")
    if evidence.cost is not None:
        said.append(f"- Cost of the run until its evaluation: {evidence.cost:.4g} {evidence.currency}")
    return ["", *said] if said else []


def _parts(evidence: Evidence) -> list[str]:
    """The slices, worse inputs and groups that the use case asks about."""
    asked = {
        "slice": evidence.slices,
        "loss by worse input": evidence.robustness,
        "disparate impact": evidence.impact,
        "equal opportunity": evidence.opportunity,
    }
    rows = [
        f"| {kind} | {part.name.replace('|', '/')} | {part.n_rows:,} | {_number(part.figure)} | {_number(part.lower)} … {_number(part.upper)} |"
        for kind, parts in asked.items()
        for part in parts
    ]
    head = ["", "## Parts, worse inputs and groups", "", "| asked | part | rows | figure | interval |", "|---|---|---|---|---|"]
    return [*head, *rows] if rows else []


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _limits(use_case: UseCase, manifest: Manifest, evidence: Evidence) -> list[str]:
    """What nobody has looked at, and where it surely is not good."""
    snapshot = manifest.snapshot
    said = [
        f"- It knows rows like those of {snapshot.partitions[0]} … {snapshot.partitions[-1]}; monitoring tells when they are no longer alike."
    ]
    if evidence.n_rows < _FEW_ROWS:
        said.append(f"- The hold-out has {evidence.n_rows} rows, so every figure above is uncertain.")
    for parts, name in ((evidence.slices, "parts of the rows (`gate.slices`)"), (evidence.robustness, "worse inputs (`gate.robustness`)")):
        if not parts:
            said.append(f"- Not examined: {name}.")
    if use_case.task == "binary" and not evidence.impact:
        said.append("- Not examined: whether groups of people are treated alike (`gate.fairness`).")
    small = [part.name for part in evidence.slices if part.figure is None]
    if small:
        said.append(f"- Too few rows to be judged: {', '.join(small)}.")
    said.append("- Not examined: what happens to people who are predicted wrongly.")
    return said


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
