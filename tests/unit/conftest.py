"""The tiny model and what it is asked, for whoever must serve, deploy, compare with or monitor one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines_lib.store import write_json
from tests import tiny

USE_CASE = """\
name: shop
title: Shop
owner: test@example.com
task: binary
start: 2026-01-01
source: {path: "{home}/{partition}.csv"}
columns: {amount: {type: number}, outcome: {type: string, role: label}}
label: {column: outcome, positive: "1"}
gate: {metric: roc_auc, floor: 0.6}
"""


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A folder of use cases with one in it, `shop`, which says what every use case must say and nothing else."""
    folder = tmp_path / "cases"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "use_case.yaml").write_text(USE_CASE, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def make_package() -> Callable[..., str]:
    """`tiny.make_package`."""
    return tiny.make_package


@pytest.fixture
def shop(make_use_case):
    """The use case of the tiny package: its features, a key, and a governor that is easily convinced."""
    return make_use_case(
        columns={
            **{name: {"type": kind} for name, kind in tiny.TYPES.items()},
            "customer": {"type": "integer", "role": "key"},
            "action": {"type": "string", "role": "label"},
        },
        split={"by": "row"},
        monitoring={"min_rows": 50, "need": 2, "of": 3, "cooldown": 1, "loss": None},
    )


@pytest.fixture
def answer(sandbox) -> Callable[..., None]:
    """Returns `answer(day, shift=0.0, version=1, n=200, wrong=0)`: what the service would have logged on a day, and the truth, which
    differs from every `wrong`th answer."""

    def log(day: str, shift: float = 0.0, version: int = 1, n: int = 200, wrong: int = 0) -> None:
        import pyarrow as pa

        from pipelines_lib.data.tables import Tables

        root = sandbox.project.home / "store" / "shop"
        scores = tiny.log_answers(root, day, shift=shift, version=version, n=n)
        truth = ["yes" if (score > 0.5) != (wrong > 0 and row % wrong == 0) else "no" for row, score in enumerate(scores)]
        rows = {"row_id": [f"{i:06d}" for i in range(n)], "customer": list(range(n)), "label": truth}
        Tables(root).write("labelled", day, pa.table(rows))

    return log


@pytest.fixture
def monitor(sandbox, shop) -> Callable[..., dict]:
    """Returns `monitor(day, **params)`: runs the monitoring stages of a day and returns their results by name."""

    def run(day: str, **params) -> dict:
        from pipelines_lib.jobs import decide, measure, profile, report

        results = {}
        for name, module in {"profile": profile, "measure": measure, "decide": decide, "report": report}.items():
            stage = sandbox.stage(name, shop, day)
            stage = replace(stage, spec=stage.spec.model_copy(update={"params": params}))
            results[name] = module.main(stage)
            write_json(stage.folder / "result.json", results[name])
        return results

    return run


@pytest.fixture
def deploy() -> Callable[..., str]:
    """`tiny.deploy`."""
    return tiny.deploy
