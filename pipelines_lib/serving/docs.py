"""The API as it is now: each route with a request that the served model answers, and its answer."""

import copy
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from pipelines_lib.serving.examples import examples
from pipelines_lib.serving.rows import RequestError
from pipelines_lib.serving.service import Document, Service

_ERROR: Document = {
    "error": "body: found null; a request is one JSON object. Wrap it in { }",
    "what": "found null",
    "where": "body",
    "rule": "a request is one JSON object",
    "remedy": "Wrap it in { }",
}
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}
h2{font-size:1.1rem;border-top:1px solid #dde3e9;padding-top:1rem}code,pre{font-size:14px}
pre{background:#f3f5f8;padding:.75rem;overflow-x:auto;border-radius:6px;max-height:24rem}
@media(prefers-color-scheme:dark){body{background:#14191f;color:#dde3e9}pre{background:#1f262e}h2{border-color:#333d47}a{color:#8bf}}
"""


def documented(schema: Mapping[str, Any], service: Service) -> Document:
    """The OpenAPI document `schema`, its routes named after the use case and with an example of what each takes and answers."""
    made: Document = copy.deepcopy(dict(schema))
    made["paths"] = {path.replace("{name}", service.name): route for path, route in made["paths"].items()}
    for route in made["paths"].values():
        for operation in route.values():
            operation.pop("parameters", None)
            operation["responses"].pop("422", None)
    served = service.slot.served
    asked = {} if served is None else examples(service.name, served)
    answers: dict[str, Any] = {
        "/v2/health/live": {"live": True, "pid": 1},
        "/v2/health/ready": {"ready": True},
        "/v2": {"name": "sluice", "version": "1", "extensions": []},
        f"/v2/models/{service.name}/ready": {"name": service.name, "ready": True},
    }
    if served is not None:
        answers[f"/v2/models/{service.name}"] = service.metadata()
    ways = {f"/v2/models/{service.name}/infer": service.infer, "/invocations": service.invoke, "/recommend": service.recommend}
    for path, way in ways.items():
        operation = made["paths"][path]["post"]
        operation["responses"]["4XX"] = {"description": "What is wrong, where, and how to mend it", "content": _json(_ERROR)}
        operation["requestBody"] = {"required": True, "content": _json(asked[path]) if path in asked else {"application/json": {}}}
        if path in asked:
            try:
                answers[path] = way(json.dumps(asked[path]).encode())
            except RequestError as error:  # a column about a person, for one, may take none of the values that examples have
                answers[path] = {"error": str(error), **error.parts}
    for path, answer in answers.items():
        [operation] = made["paths"][path].values()
        operation["responses"]["200"]["content"] = _json(answer)
    return made


def docs_page(document: Mapping[str, Any]) -> str:
    """The same as HTML, without a script."""
    title = escape(document["info"]["title"])
    routes = "".join(
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}</p>{_shown(operation)}"
        for path, route in document["paths"].items()
        for method, operation in route.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f'<p><a href="openapi.json">openapi.json</a> · <a href="./">how to ask</a></p>{routes}</body></html>'
    )


def _json(example: Any) -> Document:
    return {"application/json": {"schema": {"type": "object"}, "example": example}}


def _shown(operation: Mapping[str, Any]) -> str:
    parts = {"Takes": operation.get("requestBody", {})}
    parts |= {f"Answers {status}": response for status, response in operation["responses"].items()}
    return "".join(
        f"<p>{told}</p><pre>{escape(json.dumps(example, indent=1, ensure_ascii=False))}</pre>"
        for told, part in parts.items()
        if (example := part.get("content", {}).get("application/json", {}).get("example")) is not None
    )
