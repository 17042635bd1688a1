"""The page a person sees who opens the service in a browser: what answers here, and how to ask it."""

import json
import shlex
from html import escape

from pipelines_lib.serving.examples import examples
from pipelines_lib.serving.requests import DATATYPES
from pipelines_lib.serving.slot import Served, Slot

_WAYS = {
    "infer": "Open Inference Protocol v2, one tensor a column",
    "invocations": "Or as MLflow's <code>/invocations</code>",
    "recommend": "Which items suit a user",
}

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #dde3e9}
pre{background:#f3f5f8;padding:.75rem;overflow-x:auto;border-radius:6px;font-size:14px}.warn{color:#a33}
@media(prefers-color-scheme:dark){body{background:#14191f;color:#dde3e9}pre{background:#1f262e}td,th{border-color:#333d47}.warn{color:#f99}a{color:#8bf}}
"""


def index_page(name: str, slot: Slot, url: str) -> str:
    """HTML of `/`."""
    served, error, rollout = slot.served, slot.error, slot.rollout
    body = _nothing() if served is None else _model(name, served, url)
    warning = f'<p class="warn">The version the pointer names is not served: {escape(error)}</p>' if error else ""
    if rollout is not None:
        asked = "answers" if rollout.traffic.mode == "canary" else "is asked, beside it and without a say,"
        warning += f"<p>A {rollout.traffic.mode} is under way: version <b>{rollout.version}</b> {asked} {rollout.traffic.share:.3g} of the requests.</p>"
    title = escape(served.deployment.title or name if served else name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>{warning}{body}"
        f'<p><a href="docs">API</a> (<a href="openapi.json">openapi.json</a>) · <a href="v2/models/{escape(name)}">metadata</a> · <a href="metrics">metrics</a></p></body></html>'
    )


def _nothing() -> str:
    return "<p>No model is deployed yet. Run the use case's training DAG; the service takes over what it deploys by itself.</p>"


def _model(name: str, served: Served, url: str) -> str:
    manifest = served.package.manifest
    columns = "".join(
        f"<tr><td>{escape(feature.name)}</td><td>{feature.type}</td><td>{DATATYPES[feature.type][0]}</td></tr>"
        for feature in manifest.features
    )
    metrics = ", ".join(f"{escape(metric)} {value:.4g}" for metric, value in sorted(manifest.metrics.items()))
    classes = ", ".join(map(escape, manifest.classes)) or "a number"
    keys = f" Optional, kept in the prediction log: {escape(', '.join(served.shape.keys))}." if served.shape.keys else ""
    if served.guard.problem:
        keys += (
            f' <span class="warn">{escape(", ".join(served.guard.unlogged))}: not logged, because {escape(served.guard.problem)}.</span>'
        )
    required = f", but not of {escape(', '.join(sorted(served.shape.required)))}" if served.shape.required else ""
    asked = "".join(
        f"<p>{_WAYS[path.rpartition('/')[2]]}:</p><pre>{escape(_curl(url + path[1:], request))}</pre>"
        for path, request in examples(name, served).items()
    )
    return (
        f"<p>Version <b>{served.version}</b> ({served.deployment.state}) answers: {manifest.task}, {classes}. On its hold-out: {metrics}.</p>"
        f"<h2>Ask it</h2>{asked}"
        f"<h2>Columns</h2><p>Every column is needed; a value may be null{required}.{keys}"
        f' The answers are logged under the day they are given, or under the partition in <code>"parameters": {{"partition_key": …}}</code>.</p>'
        f"<table><tr><th>Column</th><th>Type</th><th>Datatype</th></tr>{columns}</table>"
    )


def _curl(url: str, document: object) -> str:
    return f"curl -s {url} \\\n  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(json.dumps(document, ensure_ascii=False))}"
