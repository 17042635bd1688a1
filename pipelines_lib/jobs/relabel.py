"""Take in what people said of the rows they were asked about, and label again what that changes.

    python -m pipelines_lib.jobs.relabel --spec spec.json

Answers come as files of Label Studio in `review/answers` below the use case's folder in the store. Each is removed when the
labels follow it, and one that is no such file is put aside.
"""

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.labelling.partition import Figures, label_due
from pipelines_lib.data.labelling.votes import LabellingFunction
from pipelines_lib.data.review import inbox, keep_answers, read_answers
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, DataError
from pipelines_lib.jobs.stage import Stage, log, run_stage
from pipelines_lib.store import StorePath, in_order, move


def main(stage: Stage) -> JobResult:
    """Read the answers, keep them, label the partitions that they are about."""
    tables = Tables(stage.root)
    files = in_order(inbox(stage.root).glob("*.json"))
    partitions, n_answers, problems = _take_in(stage, tables, files)
    done: dict[str, Figures] = {}
    for key in sorted({stage.spec.partition_key, *partitions}):
        done |= label(stage, key, tables)
    for path in files:
        path.unlink(missing_ok=True)
    return JobResult(
        stage="relabel",
        reason=f"took in {n_answers} answers; labelled {told(done)}",
        figures={"n_answers": n_answers, "n_problems": len(problems), "n_labelled": {key: one["n_labelled"] for key, one in done.items()}},
        outputs={"labelled_partitions": list(done)},
    )


def _take_in(stage: Stage, tables: Tables, files: list[StorePath]) -> tuple[list[str], int, list[str]]:
    """Put the answers into the layer `reviews`. Returns (partitions, answers kept, problems)."""
    partitions: set[str] = set()
    problems: list[str] = []
    n_answers = 0
    for path in files:
        try:
            answers, malformed = read_answers(path, stage.use_case)
        except DataError as error:
            problems.append(str(error))
            move(path, path.with_name(f"{path.stem}.rejected"))
            continue
        changed, outdated = keep_answers(tables, answers, stage.use_case)
        n_answers += len(answers) - len(outdated)
        partitions.update(changed)
        problems += [*malformed, *outdated]
    for problem in problems:
        log.warning("%s", problem)
    return sorted(partitions), n_answers, problems


def label(stage: Stage, partition_key: str, tables: Tables) -> dict[str, Figures]:
    """`label_due` with the use case's labelling functions."""
    return label_due(stage.use_case, partition_key, tables, Marks(stage.root), _functions(stage))


def told(done: dict[str, Figures]) -> str:
    """How many rows of which partition were labelled, for a result's one sentence."""
    return ", ".join(f"{one['n_labelled']} of {key}" for key, one in done.items()) or "none yet"


def _functions(stage: Stage) -> dict[str, LabellingFunction]:
    if (rules := stage.use_case.label.rules) is None:
        return {}
    hooks = stage.hooks()
    if absent := [name for name in rules.functions if not callable(getattr(hooks, name, None))]:
        raise ConfigError(
            f"{hooks.__file__}: has no function {', '.join(absent)}, which label.rules.functions names; write it, taking a pyarrow Table, or take the name out"
        )
    return {name: getattr(hooks, name) for name in rules.functions}


if __name__ == "__main__":
    run_stage(main)
