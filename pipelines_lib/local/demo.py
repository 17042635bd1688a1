"""The demo: two use cases from raw files to a monitored model that drift retrains, through the real scheduler.

Every step looks for what is done already, so that a second run starts where the first ended.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.table import Table

from pipelines_lib.config import Project
from pipelines_lib.contracts import Pipeline, dag_id, run_dir
from pipelines_lib.errors import BadInput, SluiceError
from pipelines_lib.local.airflow_api import AirflowApi
from pipelines_lib.local.progress import Progress
from pipelines_lib.local.services import check_alive, up
from pipelines_lib.local.settings_file import load_settings
from pipelines_lib.store import StorePath, opened, read_json, store_of
from pipelines_lib.use_case import UseCase

USE_CASES = ("recommendation", "diagnosis")
HISTORY = ("2026-01-01", "2026-01-14")
QUIET = "2026-01-15"
DRIFTED = ("2026-01-16", "2026-01-17")

_DAYS = 14
_OPEN = {"queued", "running"}


Replay = Callable[[Project, list[str]], tuple[int, str]]
"""Run `python -m pipelines_lib.serving.replay` with these arguments; returns its exit code and what it printed."""


class DemoFailed(SluiceError):
    """A run of the demo ended otherwise than it should; the message has the task and the end of its log."""


def replay_here(project: Project, arguments: list[str]) -> tuple[int, str]:
    """`Replay` in a process of this machine, which reaches the services."""
    command = [sys.executable, "-m", "pipelines_lib.serving.replay", *arguments]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


class Demo:
    """The demo on one project; `replay` sends the requests that its services get."""

    def __init__(self, project: Project, progress: Progress, replay: Replay = replay_here) -> None:
        self._project = project
        self._progress = progress
        self._replay = replay
        self._profile = project.profile()
        self._use_cases = [project.use_case(name) for name in USE_CASES]
        self._api = AirflowApi(self._profile.airflow_url or "")

    def run(self) -> None:
        """All of it. Raises `SluiceError` with a sentence on what went wrong."""
        step = self._progress.step
        with step("start Airflow and MLflow", "start"):
            up(self._project, self._progress.update)
            load_settings(self._project.folder / "airflow_settings.yaml", self._api)
            self._wait_for_dags()
        with step(f"backfill two weeks of data, {HISTORY[0]} to {HISTORY[1]}", "backfill"):
            self._backfill()
        with step("train, evaluate, gate, register, deploy and verify; ingest three more days meanwhile", "training"):
            self._train()
        for day in (QUIET, *DRIFTED):
            with step(f"serve and monitor {day}", f"monitoring {day}"):
                self._monitor(day)
        with step("retrain because of drift", "retraining"):
            self._wait_for_retraining()
        self._summary()

    # --- steps ---

    def _wait_for_dags(self) -> None:
        wanted = {dag_id(use_case.name, pipeline) for use_case in self._use_cases for pipeline in Pipeline}
        deadline = time.monotonic() + 120
        while missing := wanted - {dag["dag_id"] for dag in self._api.get("/dags", tags=["sluice"], limit=1000)["dags"]}:
            if time.monotonic() > deadline:
                errors = self._api.get("/importErrors")["import_errors"]
                raise DemoFailed(
                    f"Airflow does not show {sorted(missing)}. Import errors: {[e['stack_trace'][-500:] for e in errors] or 'none'}"
                )
            self._progress.update(f"waiting for Airflow to read {len(missing)} DAGs")
            time.sleep(1)
        for name in wanted:
            self._api.patch(f"/dags/{name}", {"is_paused": False})

    def _backfill(self) -> None:
        asked = set()
        while True:
            done = {}
            for use_case in self._use_cases:
                states = self._history(use_case)
                done[use_case.name] = sum("success" in found for found in states.values())
                ended = [key for key, found in states.items() if not found & {"success", *_OPEN}]
                if ended and use_case.name not in asked:
                    self._ask_for_backfill(use_case)
                    asked.add(use_case.name)
                elif failed := [key for key in ended if "failed" in states[key]]:
                    raise self._failure(dag_id(use_case.name, Pipeline.DATA), self._run_of(use_case, failed[0]))
            if all(count == _DAYS for count in done.values()):
                return
            self._progress.update(" · ".join(f"{name} {count}/{_DAYS} days" for name, count in done.items()))
            self._pause()

    def _ask_for_backfill(self, use_case: UseCase) -> None:
        """Of the days that have no run, or a failed one."""
        body = {
            "dag_id": dag_id(use_case.name, Pipeline.DATA),
            "from_date": f"{HISTORY[0]}T00:00:00Z",
            "to_date": f"{HISTORY[1]}T23:59:59Z",
            "reprocess_behavior": "failed",
            "max_active_runs": 2,
        }
        try:
            self._api.post("/backfills", body)
        except BadInput as error:
            raise DemoFailed(
                f"Airflow refused the backfill ({error}). Wait half a minute and run `make demo` again: a backfill ends late"
            ) from error

    def _run_of(self, use_case: UseCase, key: str) -> str:
        runs = self._api.runs(dag_id(use_case.name, Pipeline.DATA))
        return str(next(run["dag_run_id"] for run in runs if run["partition_key"] == key and run["state"] == "failed"))

    def _pause(self) -> None:
        """Between two looks at the runs; also the place where a service that died is noticed."""
        check_alive(self._project)
        time.sleep(1)

    def _history(self, use_case: UseCase) -> dict[str, set[str]]:
        """The states of the runs of each day of the two weeks."""
        states: dict[str, set[str]] = {use_case.shift(HISTORY[0], day): set() for day in range(_DAYS)}
        for run in self._api.runs(dag_id(use_case.name, Pipeline.DATA)):
            if run["partition_key"] in states:
                states[run["partition_key"]].add(run["state"])
        return states

    def _train(self) -> None:
        runs = []
        for use_case in self._use_cases:
            runs.append(self._start(use_case, Pipeline.TRAINING, "demo__first", HISTORY[1]))
            runs += [self._start(use_case, Pipeline.DATA, f"demo__{day}", day) for day in (QUIET, *DRIFTED)]
        self._wait(runs)

    def _monitor(self, day: str) -> None:
        runs = []
        for use_case in self._use_cases:
            if self._api.run_state(dag_id(use_case.name, Pipeline.MONITORING), f"demo__{day}") is None:
                self._progress.update(f"{use_case.name}: sending the day's requests")
                code, output = self._replay(self._project, ["--use-case", use_case.name, "--partition", day])
                if code != 0:
                    raise DemoFailed(f"the requests of {day} for {use_case.name} failed:\n{output[-2000:]}")
            runs.append(self._start(use_case, Pipeline.MONITORING, f"demo__{day}", day))
        self._wait(runs)
        for use_case in self._use_cases:
            decision = self._decision(use_case, day)
            self._progress.say(f"{use_case.name}: [bold]{decision['action']}[/bold], {decision['reason']}")

    def _wait_for_retraining(self) -> None:
        runs = []
        for use_case in self._use_cases:
            for day in (QUIET, *DRIFTED):
                decision = self._decision(use_case, day)
                if decision["action"] == "retrain":
                    runs.append((dag_id(use_case.name, Pipeline.TRAINING), str(decision["trigger_run_id"])))
                    if self._api.run_state(*runs[-1]) == "failed":
                        self._api.clear_failed(*runs[-1])
        if not runs:
            raise DemoFailed("no use case decided to retrain on the drifted days; the drift reports on the Sluice page have the figures")
        self._wait(runs)

    # --- what the steps share ---

    def _start(self, use_case: UseCase, pipeline: Pipeline, run_id: str, partition_key: str) -> tuple[str, str]:
        name = dag_id(use_case.name, pipeline)
        if self._api.trigger(name, run_id, partition_key) == "failed":
            self._api.clear_failed(name, run_id)
        return name, run_id

    def _wait(self, runs: list[tuple[str, str]]) -> None:
        while True:
            states = {run: self._api.run_state(*run) for run in runs}
            for run, state in states.items():
                if state == "failed":
                    raise self._failure(*run)
            if all(state == "success" for state in states.values()):
                return
            open_runs = [run for run, state in states.items() if state != "success"]
            at = [place for run in open_runs[:4] if (place := self._at(run))]
            self._progress.update(" · ".join([f"{len(runs) - len(open_runs)}/{len(runs)} runs done", *at]))
            self._pause()

    def _at(self, run: tuple[str, str]) -> str:
        tasks = [task["task_id"] for task in self._api.tasks(*run) if task["state"] == "running"]
        return f"{run[0].split('__')[0]} {tasks[0]}" if tasks else ""

    def _failure(self, name: str, run_id: str) -> DemoFailed:
        for task in self._api.tasks(name, run_id):
            if task["state"] == "failed":
                log = self._api.log(name, run_id, task["task_id"], task["try_number"]).splitlines()[-25:]
                return DemoFailed(
                    f"task {task['task_id']} of {name}, run {run_id}, failed. Mend the cause and run `make demo` again; it goes on from there. The end of the task's log:\n"
                    + "\n".join(log)
                )
        return DemoFailed(f"{name}, run {run_id}, failed without a failed task; see {self._profile.airflow_url}/dags/{name}")

    def _store(self, use_case: UseCase) -> StorePath:
        return store_of(self._profile) / use_case.name

    def _decision(self, use_case: UseCase, day: str) -> dict[str, Any]:
        folder = opened(run_dir(self._profile.store, use_case.name, Pipeline.MONITORING, f"demo__{day}"), self._project)
        decided: Any = read_json(folder / "decide" / "result.json")
        return dict(decided["outputs"])

    # --- the end ---

    def _summary(self) -> None:
        console = self._progress.console
        for use_case in self._use_cases:
            console.print()
            table = Table(title=f"[bold]{use_case.title}[/bold]", title_justify="left", show_header=False, box=None, padding=(0, 2))
            table.add_column(style="dim", no_wrap=True)
            table.add_column(overflow="fold")
            for row in self._summary_rows(use_case):
                table.add_row(*row)
            console.print(table)
        console.print()
        console.print(f"[bold]Sluice[/bold]   {self._profile.airflow_url}/sluice/  (also in Airflow's navigation)")
        console.print(f"[bold]Airflow[/bold]  {self._profile.airflow_url}")
        console.print(f"[bold]MLflow[/bold]   {self._profile.mlflow_url}/#/experiments")
        console.print("\nThe services stay up. [bold]make down[/bold] stops them, [bold]make clean[/bold] forgets their state.")

    def _summary_rows(self, use_case: UseCase) -> list[tuple[str, str]]:
        days = [self._day(use_case, run) for run in self._api.runs(dag_id(use_case.name, Pipeline.DATA)) if run["state"] == "success"]
        n_rows, n_quarantined = (sum(int(day[key]) for day in days) for key in ("n_rows", "n_quarantined"))
        training, deployment = (self._status(use_case, name) for name in ("training", "deployment"))
        rows = [
            ("data", f"{len(days)} partitions, {n_rows:,} rows, {n_quarantined:,} quarantined ({n_quarantined / max(n_rows, 1):.1%})"),
            (
                "champion",
                f"version {deployment['model_version']}, {use_case.gate.metric} {_figure(deployment['metrics'][use_case.gate.metric])} on the hold-out",
            ),
            ("service", str(deployment["url"])),
            ("answer", self._answer(use_case)),
        ]
        for day in (QUIET, *DRIFTED):
            decision = self._decision(use_case, day)
            rows.append((f"drift {day}", f"{decision['action']}: {decision['reason']}"))
            if decision["action"] == "retrain":
                state = self._api.run_state(dag_id(use_case.name, Pipeline.TRAINING), decision["trigger_run_id"])
                rows.append(("retraining", f"{decision['trigger_run_id']}: {state}, verdict {training['verdict']}"))
        return rows

    def _day(self, use_case: UseCase, run: dict[str, Any]) -> dict[str, Any]:
        folder = opened(run_dir(self._profile.store, use_case.name, Pipeline.DATA, run["dag_run_id"]), self._project)
        result: Any = read_json(folder / "validate" / "result.json")
        return dict(result["figures"])

    def _status(self, use_case: UseCase, name: str) -> dict[str, Any]:
        status: Any = read_json(self._store(use_case) / "status" / f"{name}.json")
        return dict(status)

    def _answer(self, use_case: UseCase) -> str:
        code, output = self._replay(self._project, ["--use-case", use_case.name, "--partition", DRIFTED[-1], "--one"])
        return output.strip() if code == 0 else f"none: {output.strip()[-300:]}"


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
