"""A pod as Sluice wants it, on top of the template that says what else it needs on a cluster."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from pipelines_lib.errors import ConfigError

Manifest = dict[str, Any]

CONTAINER = "base"
"""The container that is the stage, or the server; a template may set its fields under this name, and add others."""
USER = 10001
"""The numeric user that pods run as."""
POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def from_template(path: Path, pod: Manifest) -> Manifest:
    """`pod` on top of the template at `path`. Raises `ConfigError` where that is no manifest of a pod."""
    try:
        template = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(template, dict) or template.get("kind") != "Pod" or not isinstance(template.get("spec"), dict):
        raise ConfigError(f"{path}: not a pod; write a manifest with `apiVersion: v1`, `kind: Pod` and `spec:`")
    if unknown := _unknown(template):
        raise ConfigError(f"{path}: {unknown}: a pod has no such field, or not with this value; correct it or remove it")
    merged: Manifest = _merged(template, pod)
    return merged


def _merged(under: Any, over: Any) -> Any:
    """`over` on top of `under`: objects by key, lists of named things by name; of two other values, that of `over`."""
    if isinstance(under, dict) and isinstance(over, dict):
        return {**under, **{key: _merged(under[key], value) if key in under else value for key, value in over.items()}}
    if isinstance(under, list) and isinstance(over, list) and all(isinstance(item, dict) for item in (*under, *over)):
        names = [item.get("name") for item in over]
        named = {item["name"]: item for item in under if item.get("name") in names and item.get("name") is not None}
        rest = [item for item in under if item.get("name") not in named]
        return [*(_merged(named[item["name"]], item) if item.get("name") in named else item for item in over), *rest]
    return over


def _unknown(template: Manifest) -> str | None:
    """The first field of `template` that Kubernetes' model of a pod does not have: the model leaves it out without a word."""
    from kubernetes.client import ApiClient

    client = ApiClient()
    try:
        known = client.sanitize_for_serialization(client.deserialize(SimpleNamespace(data=json.dumps(template)), "V1Pod"))
    except ValueError as error:
        return str(error)
    return _missing(template, known)


def _missing(given: Any, known: Any, field: str = "") -> str | None:
    if isinstance(given, dict):
        pairs = [(f"{field}.{key}".lstrip("."), value, known.get(key) if isinstance(known, dict) else None) for key, value in given.items()]
    elif isinstance(given, list):
        pairs = [(f"{field}[{i}]", value, known[i] if isinstance(known, list) else None) for i, value in enumerate(given)]
    else:
        return None
    for name, value, found in pairs:
        if value is not None and found is None:
            return name
        if deeper := _missing(value, found, name):
            return deeper
    return None
