"""When the pipelines run: `schedule:`."""

from croniter import croniter
from pydantic import field_validator

from pipelines_lib.use_case.base import Settings


class Schedule(Settings):
    """Cron expressions in UTC; `null` leaves the DAG to manual runs, backfills and triggers.

    `data` and `monitoring` come once a partition: a tick runs the partition that holds the tick before it. With
    `partition: hour` they are "5 * * * *" and "35 * * * *" where nothing else is said.
    """

    data: str | None = "0 2 * * *"
    """When the partition that has just closed is ingested."""
    training: str | None = "0 4 * * 1"
    """When a regular training starts, beside those that drift fires."""
    monitoring: str | None = "0 6 * * *"
    """When the partition that has just closed is compared with what the champion was trained on."""

    @field_validator("data", "training", "monitoring")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        if value is not None and not (len(value.split()) == 5 and croniter.is_valid(value)):
            raise ValueError(
                f"{value!r} is not a schedule; write a cron expression of five fields such as '0 2 * * *' (daily at 02:00 UTC), or null"
            )
        return value
