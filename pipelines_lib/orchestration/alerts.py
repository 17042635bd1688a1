"""Telling people: a notifier that speaks to every way that the profile names under `alerts`, and what it is told by.

Imported where a profile has any: the providers behind it are slow to import, and are imported when there is something to tell.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from airflow.sdk import AsyncCallback, BaseHook, BaseNotifier, BaseOperator, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined]
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from pydantic import JsonValue

from pipelines_lib.config import Alert, Profile, Project
from pipelines_lib.contracts import Pipeline
from pipelines_lib.orchestration.earlier import Earlier, earlier
from pipelines_lib.orchestration.links import page_url
from pipelines_lib.orchestration.operators import RETRIES
from pipelines_lib.store import read_json
from pipelines_lib.use_case import UseCase
from pipelines_lib.use_case.base import duration_text

_MOST = 1000
"""Characters of a message: what a phone shows, and no whole traceback."""

Message = dict[str, JsonValue]
"""What a webhook gets: `event`, `use_case`, `partition_key`, `text`, `url`."""


class Alerts(BaseNotifier):
    """Tells every way of the profile in force. Where one fails the others are told all the same, and the failure is raised in the end.

    As Airflow's callback it tells of the failed task, in the triggerer of the late run; `message` says anything else.

    Of a run that missed its deadline nobody is told where nobody waits for it: it belongs to a backfill, whose runs stand in line and
    were all queued at once, or it has ended, and what it ended with was told. Airflow keeps the deadline of a run that failed.
    """

    def __init__(self, *, use_case: str, message: Message | None = None, context: Any = None) -> None:
        super().__init__(context)
        self._use_case, self._message = use_case, message

    def notify(self, context: Any) -> None:
        """Tell, and wait for the answers. Raises `AirflowException` where somebody could not be told."""
        message, failed = self._of(context), []
        for alert in _ways() if message else ():
            connection = BaseHook.get_connection(alert.connection)
            try:
                _notifier(alert, message, connection).notify(context)
            except Exception as error:  # noqa: BLE001 - raised when the others were told
                failed.append(_failure(alert, error, connection))
        _raise(failed)

    async def async_notify(self, context: Any) -> None:
        """The same where nothing may wait: in Airflow's triggerer."""
        message, failed = self._of(context), []
        for alert in _ways() if message else ():
            connection = await BaseHook.aget_connection(alert.connection)
            try:
                await _notifier(alert, message, connection).async_notify(context)
            except Exception as error:  # noqa: BLE001 - raised when the others were told
                failed.append(_failure(alert, error, connection))
        _raise(failed)

    def _of(self, context: Mapping[str, Any]) -> Message:
        """What to tell; empty where that is nothing."""
        if self._message is not None:
            return self._message
        if "deadline" not in context:
            return _failed(context, self._use_case)
        run = context["dag_run"]
        if run["run_type"] == "backfill" or run["state"] not in ("queued", "running"):
            self.log.info("nothing is told: run %s of %s is a backfill's, or has ended", run["dag_run_id"], run["dag_id"])
            return {}
        return _late(run, self._use_case)


class TellOperator(BaseOperator):
    """Tell of a retraining that was fired, and of an alert that is news: yesterday's, told again each day, would soon be read by nobody."""

    def __init__(self, *, use_case: UseCase, **kwargs: Any) -> None:
        # `retrain` is skipped where an alert is given; where it failed, its own callback tells.
        super().__init__(trigger_rule="none_failed", **{**RETRIES, **kwargs})
        self.use_case_name = use_case.name

    def execute(self, context: Any) -> None:
        """Tell, or skip with the reason."""
        decided = earlier(context, self.use_case_name, Pipeline.MONITORING, "decide")
        action, reason = decided.result.outputs["action"], str(decided.result.outputs["reason"])
        if because := _no_news(decided, str(action), context["ti"]):
            raise AirflowSkipException(because)
        key = decided.partition_key
        text = f"{decided.use_case.title}, {key}: {action}. {reason}"
        Alerts(use_case=self.use_case_name, message=_message(str(action), self.use_case_name, key, text))(context)


def deadline(use_case: UseCase, profile: Profile) -> DeadlineAlert:
    """Tells of a run that has not ended in time. Of one that was never queued Airflow can't tell: its age is a figure for Prometheus."""
    callback = AsyncCallback(Alerts, {"use_case": use_case.name})
    return DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=profile.monitoring_late, callback=callback)


def _no_news(decided: Earlier, action: str, task_instance: Any) -> str:
    """Why there is nothing to tell; empty where there is."""
    root, key = decided.store / decided.use_case.name, decided.partition_key
    if action == "retrain":
        # Left where the training was started, and not where it was found: by a rerun, or by another run for the partition.
        fired = task_instance.xcom_pull(task_ids="retrain", key="trigger_run_id")
        return "" if fired else "nothing is told: this run fired no retraining"
    if action != "alert":
        return "nothing is told of a hold"
    before = root / "decisions" / f"{decided.use_case.shift(key, -1)}.json"
    document: Any = read_json(before) if before.exists() else {}
    return "nothing is told: the partition before gave an alert too" if document.get("action") == "alert" else ""


def _failed(context: Mapping[str, Any], use_case: str) -> Message:
    run, task = context["dag_run"], context["ti"]
    text = f"{task.task_id} of {run.dag_id} failed in run {run.run_id}: {context.get('exception') or 'the log says why'}"
    return _message("failed", use_case, getattr(run, "partition_key", None), text)


def _late(run: Mapping[str, Any], use_case: str) -> Message:
    late = duration_text(Project.from_environment().profile().monitoring_late)
    return _message(
        "late",
        use_case,
        run.get("partition_key"),
        f"{run['dag_id']} is late: run {run['dag_run_id']} has not ended {late} after it was queued",
    )


def _message(event: str, use_case: str, partition_key: str | None, text: str) -> Message:
    page = f"files/{use_case}/reports/{partition_key}.html" if event in ("retrain", "alert") else ""
    return {"event": event, "use_case": use_case, "partition_key": partition_key, "text": text[:_MOST], "url": page_url(page)}


def _ways() -> tuple[Alert, ...]:
    profile: Profile = Project.from_environment().profile()
    return profile.alerts


def _notifier(alert: Alert, message: Message, connection: Any) -> Any:
    """Airflow's notifier of one way. The secret part of an address is a connection's password, which logs mask."""
    text = f"{message['text']}\n{message['url']}"
    if alert.to == "mail":
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier  # noqa: PLC0415 - slow to import, seldom needed

        return SmtpNotifier(
            to=list(alert.address),
            subject=f"Sluice: {message['use_case']}: {message['event']}",
            html_content=f'<p>{escape(str(message["text"]))}</p><p><a href="{escape(str(message["url"]))}">{escape(str(message["url"]))}</a></p>',
            smtp_conn_id=alert.connection,
        )
    from airflow.providers.http.notifications.http import HttpNotifier  # noqa: PLC0415 - slow to import, seldom needed

    endpoint = connection.password if connection.password and not connection.login else None
    return HttpNotifier(
        http_conn_id=alert.connection,
        endpoint=endpoint,
        json={"text": text} if alert.to == "slack" else message,
        extra_options={"timeout": 30},
    )


def _failure(alert: Alert, error: Exception, connection: Any) -> str:
    # The message of a refused request names the whole address.
    said = str(error).replace(connection.password, "***") if connection.password else str(error)
    return f"{alert.to} by connection {alert.connection!r}: {said}"


def _raise(failed: list[str]) -> None:
    if failed:
        raise AirflowException(f"could not tell by {'; '.join(failed)}. See the profile's `alerts` and the connections in Airflow")
