"""The ledger of the retrainings that drift has fired, as Airflow's tasks write and read it."""

import time
from typing import Any

from pydantic import JsonValue

from pipelines_lib.contracts import LEDGER, Firing, Ledger, Pipeline, dag_id
from pipelines_lib.orchestration.earlier import Earlier
from pipelines_lib.store import StorePath, read_json, update_json

_COMING_SECONDS = 900
"""For so long a retraining that was entered, and whose run Airflow does not know, is taken to be on its way."""


def enter(decided: Earlier) -> None:
    """Put the retraining that `decide` asked for into the ledger, unless it is there. Raises `Held` where another came since the decision."""
    decision = decided.result.outputs
    firing = Firing(
        partition_key=decided.partition_key,
        run_id=str(decision["trigger_run_id"]),
        model_version=int(str(decision["model_version"])),
        at=time.time(),
    )

    def one_more(document: JsonValue) -> JsonValue:
        known = Ledger() if document is None else Ledger.model_validate(document)
        entered = known.with_one_more(firing, int(str(decision["n_known"])))
        return None if entered is known else entered.model_dump(mode="json")

    update_json(decided.store / decided.use_case.name / LEDGER, one_more)


def seen(task_instance: Any, store: StorePath, use_case: str) -> dict[str, JsonValue]:
    """What `decide` is told: trainings of the use case that are queued, running, or entered a moment ago without a run yet; and the
    retrainings in the ledger.

    The ledger is read first: of what is entered later the decision must not claim to know, since its training was not counted.
    """
    training = dag_id(use_case, Pipeline.TRAINING)
    path = store / use_case / LEDGER
    fired = Ledger.model_validate(read_json(path)).fired if path.exists() else ()
    coming = [firing.run_id for firing in fired if time.time() - firing.at < _COMING_SECONDS]
    n_coming = sum(int(task_instance.get_dr_count(dag_id=training, run_ids=[run_id])) == 0 for run_id in coming)
    under_way = int(task_instance.get_dr_count(dag_id=training, states=["queued", "running"]))
    return {"trainings_in_flight": n_coming + under_way, "retrainings_known": len(fired)}
