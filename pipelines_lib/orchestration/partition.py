"""Which partition a run is for: one answer for scheduled, manual and backfill runs."""

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import UseCase


def partition_of(context: Mapping[str, Any], use_case: UseCase) -> str:
    """The run's partition key.

    Airflow's own `partition_key` carries it (the timetable's for scheduled and backfill runs, the form's for manual
    ones); a run that another DAG triggered brings it as the parameter `partition`. Raises `AirflowFailException` where
    neither is there, where both are and differ, or where it is no partition of the use case.
    """
    own, given = context.get("partition_key"), context["params"].get("partition")
    if own and given and own != given:
        raise AirflowFailException(
            f"this run names two partitions, {own} (Partition Key) and {given} (Partition); trigger it again with one of them"
        )
    key = own or given
    if not key:
        raise AirflowFailException(
            f"this run names no partition. Trigger it again with a partition key such as {use_case.start:{use_case.key_format}} "
            "(field “Partition Key” of the form, `partition_key` in the API)"
        )
    try:
        use_case.partition_time(key)
    except ConfigError as error:
        raise AirflowFailException(str(error)) from error
    return str(key)
