"""The Sluice page: each use case's health at a glance, and the reports that stages leave in the store."""

import html
from typing import Any
from urllib.parse import quote

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models import DagModel, DagRun
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, PlainTextResponse
from sqlalchemy import func, select

from pipelines_lib import cost
from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import Pipeline, dag_id
from pipelines_lib.errors import DataError, SluiceError
from pipelines_lib.exposition import exposition, statuses
from pipelines_lib.orchestration.store import open_store
from pipelines_lib.store import StorePath, contains, read_json
from pipelines_lib.use_case import UseCase

# A report is read, never run: no script, nothing from elsewhere.
_SAFE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:", "X-Content-Type-Options": "nosniff"}

_LABELS = {"partition_key": "partition", "n_rows": "rows", "n_quarantined": "quarantined", "run_id": "run", "reason": ""}

app = FastAPI(title="Sluice", docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/", response_class=HTMLResponse)
def overview(user: GetUserDep, session: SessionDep) -> HTMLResponse:  # noqa: ARG001 - signed-in users only
    """One card a use case."""
    project = Project.from_environment()
    good, broken = project.use_cases_or_errors()
    notes = _in_airflow(session, good)
    cards = "".join(_card_or_error(use_case, project.profile(), notes) for use_case in good)
    cards += "".join(
        f"<section class=card><h2>{_text(name)}</h2><p class=bad>settings are not right</p><pre>{_text(error)}</pre></section>"
        for name, error in broken.items()
    )
    body = cards or "<p>No use case yet. <code>sluice new</code> makes one.</p>"
    return HTMLResponse(_PAGE.replace("{body}", body), headers=_SAFE)


@app.get("/metrics", response_class=PlainTextResponse)
def metrics(user: GetUserDep) -> PlainTextResponse:  # noqa: ARG001 - signed-in users only: Prometheus brings a token
    """The newest figures of every use case, as Prometheus reads them."""
    project = Project.from_environment()
    try:
        store = open_store(project.profile())
        good, _ = project.use_cases_or_errors()
        text = exposition([(use_case, statuses(store / use_case.name)) for use_case in good])
    except SluiceError as error:
        raise HTTPException(503, str(error)) from error
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@app.get("/files/{path:path}")
def file(path: str, user: GetUserDep) -> HTMLResponse:  # noqa: ARG001
    """A report in the store: HTML pages below it, and nothing else."""
    try:
        store = open_store(Project.from_environment().profile())
        target = store / path
        if not contains(store, target) or target.suffix != ".html" or not target.is_file():
            raise HTTPException(404, f"there is no report {path!r}; the stage that writes it may not have run")
        return HTMLResponse(target.read_bytes(), headers=_SAFE)
    except SluiceError as error:
        raise HTTPException(503, str(error)) from error


def _in_airflow(session: Any, use_cases: list[UseCase]) -> dict[str, str]:
    """DAG id to what Airflow itself knows and no stage could write down: that it is paused, that its newest run failed."""
    ids = [dag_id(use_case.name, pipeline) for use_case in use_cases for pipeline in Pipeline]
    newest = select(func.max(DagRun.id)).where(DagRun.dag_id.in_(ids)).group_by(DagRun.dag_id)
    runs = session.execute(
        select(DagRun.dag_id, DagRun.run_id, DagRun.partition_key).where(DagRun.id.in_(newest), DagRun.state == "failed")
    )
    notes = {
        dag: f'<a class="tag bad" href="/dags/{quote(dag)}/runs/{quote(run, safe="")}" target="_top">newest run failed{f" ({_text(key)})" if key else ""}</a>'
        for dag, run, key in runs
    }
    for dag in session.scalars(select(DagModel.dag_id).where(DagModel.dag_id.in_(ids), DagModel.is_paused)):
        notes[dag] = f"{notes.get(dag, '')} <span class='tag hold'>paused: switch it on in Airflow</span>"
    return notes


def _card_or_error(use_case: UseCase, profile: Profile, notes: dict[str, str]) -> str:
    try:
        return _card(use_case, profile, open_store(profile), notes)
    except SluiceError as error:
        return f"<section class=card><h2>{_text(use_case.title)}</h2><p class=bad>the store can't be read</p><pre>{_text(error)}</pre></section>"


def _card(use_case: UseCase, profile: Profile, store: StorePath, notes: dict[str, str]) -> str:
    status = {
        pipeline: _status(store / use_case.name / "status" / f"{pipeline}.json")
        for pipeline in ("data", "training", "deployment", "monitoring")
    }
    training = ("verdict", "partition_key", "metric", "challenger", "champion", "reason")
    rows = [
        _row("Data", status["data"], ("verdict", "partition_key", "n_rows", "n_quarantined"), dag_id(use_case.name, Pipeline.DATA), notes),
        _row("Training", status["training"], training, dag_id(use_case.name, Pipeline.TRAINING), notes),
        *_cost_row(use_case, profile, store / use_case.name),
        _row(
            "Serving",
            status["deployment"],
            ("model_version", "partition_key", "run_id"),
            None,
            {"": _rollout(_status(store / use_case.name / "deployment.json"))},
        ),
        _row(
            "Monitoring", status["monitoring"], ("decision", "partition_key", "reason"), dag_id(use_case.name, Pipeline.MONITORING), notes
        ),
    ]
    return f"<section class=card><h2>{_text(use_case.title)}</h2><p class=owner>{_text(use_case.name)} · {_text(use_case.owner)}</p><table>{''.join(rows)}</table></section>"


def _row(title: str, status: dict[str, Any] | None, fields: tuple[str, ...], dag: str | None, notes: dict[str, str]) -> str:
    name = f'<a href="/dags/{dag}" target="_top">{title}</a>' if dag else title
    note = notes.get(dag or "", "")
    if status is None:
        return f"<tr><th>{name}</th><td class=none>nothing yet {note}</td></tr>"
    if not dag and status.get("url"):
        name = f'<a href="{_text(status["url"])}" target="_blank" rel="noopener">{title}</a>'
    first = status.get(fields[0])
    parts = (
        []
        if first is None
        else [f"<span class='tag {_tone(status)}'>{'version ' if fields[0] == 'model_version' else ''}{_text(first)}</span>"]
    )
    parts += [
        f"<span class=key>{_LABELS.get(field, field)}</span> {_text(_figure(status[field]))}"
        for field in fields[1:]
        if status.get(field) not in (None, "")
    ]
    if report := status.get("report"):
        parts.append(f'<a href="/sluice/files/{_text(report)}" target="_blank">report</a>')
    return f"<tr><th>{name}</th><td>{' · '.join([*parts, *([note] if note else [])])}</td></tr>"


def _rollout(pointer: dict[str, Any] | None) -> str:
    """That a version meets users' requests before it is promoted, where one does."""
    traffic = (pointer or {}).get("traffic")
    if pointer is None or traffic is None:
        return ""
    told = f"{traffic['mode']} of version {pointer['model']['version']}: {traffic['share']:.3g} of the requests"
    return f"<span class='tag act'>{_text(told)}</span>"


def _cost_row(use_case: UseCase, profile: Profile, root: StorePath) -> list[str]:
    """What the newest training has cost in each cloud, and what of that was lost to failed tries; nothing where there are no prices."""
    run = cost.newest_run(root, Pipeline.TRAINING) if profile.prices else None
    if run is None:
        return []
    try:
        bill = sum(cost.of_run(run, profile.prices).values(), cost.Bill())
    except DataError as error:
        return [f"<tr><th>Cost</th><td class=bad>{_text(error)}</td></tr>"]
    amounts = [
        f"{bill.cost[cloud]:.4g} {prices.currency} <span class=key>{_text(cloud)}</span>" for cloud, prices in profile.prices.items()
    ]
    if use_case.budget is not None and profile.cloud is not None:
        amounts.append(f"<span class=key>budget</span> {use_case.budget:g} {profile.prices[profile.cloud].currency}")
    wasted = [f"{bill.wasted[cloud]:.4g} {prices.currency}" for cloud, prices in profile.prices.items()]
    if bill.wasted_seconds:
        amounts.append(f"<span class='tag hold'>wasted</span> {bill.wasted_seconds:.0f} s ({', '.join(wasted)})")
    return [f"<tr><th>Cost</th><td>{' · '.join([*amounts, f'<span class=key>run</span> {_text(run.name)}'])}</td></tr>"]


def _tone(status: dict[str, Any]) -> str:
    """Colour of a verdict. That monitoring holds is the quiet day; that a gate holds wants a look."""
    if "decision" in status:
        return {"retrain": "act", "alert": "hold"}.get(str(status["decision"]), "good")
    return {"pass": "good", "hold": "hold"}.get(str(status.get("verdict")), "")


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _status(path: StorePath) -> dict[str, Any] | None:
    try:
        document: Any = read_json(path)
    except FileNotFoundError:
        return None
    return dict(document)


def _text(value: object) -> str:
    return html.escape(str(value))


_PAGE = """<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>Sluice</title><style>
:root{color-scheme:light dark;--line:#8884;--dim:#888;--good:#1a7f37;--hold:#9a6700;--act:#0b62c4;--bad:#c3312f}
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;max-width:90rem}
h1{font-size:1.4rem;margin:0 0 1rem}h2{font-size:1.05rem;margin:0}
main{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(34rem,100%),1fr))}
.card{border:1px solid var(--line);border-radius:10px;padding:1rem 1.2rem;overflow:hidden}
.owner,.key,.none{color:var(--dim);font-size:.86rem}.owner{margin:.1rem 0 .6rem}
table{border-collapse:collapse;width:100%}th{text-align:left;width:7rem;vertical-align:top;font-weight:600}th,td{padding:.35rem .2rem;border-top:1px solid var(--line)}
.tag{border-radius:99px;padding:.05rem .6rem;border:1px solid currentColor;font-size:.86rem;font-weight:600}
.good{color:var(--good)}.hold{color:var(--hold)}.act{color:var(--act)}.bad{color:var(--bad)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem}a{color:var(--act)}
</style></head><body><h1>Sluice</h1><main>{body}</main></body></html>"""
