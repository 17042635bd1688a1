"""A pod as Sluice wants it, on top of the template that says what else it needs on a cluster."""

import datetime as dt
import difflib
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pipelines_lib.config import document, line_of
from pipelines_lib.errors import ConfigError

Manifest = dict[str, Any]
Place = tuple[str | int, ...]
"""Keys and indices that lead to a value of a manifest."""

CONTAINER = "base"
"""The container that is the stage, or the server; a template may set its fields under this name, and add others."""
NODE = "node"
"""What it is called in the pods of a TrainJob: Kubeflow Trainer knows its own container by this name."""
PREDICTOR = "kserve-container"
"""What it is called in the pods of an InferenceService: so KServe names it."""
OWN = (CONTAINER, NODE, PREDICTOR)
"""The stage's, or the server's, whoever made the pod."""
USER = 10001
"""The numeric user that pods run as."""
HOME = "/home/sluice"
"""Of the stages' user."""
WRITABLE = ("/tmp", HOME, "/dev/shm")  # noqa: S108 - the pod's own
"""The folders that a stage may write to."""
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

_SIMPLE: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "text"),
    "int": ((int,), "a whole number"),
    "bool": ((bool,), "true or false"),
    "datetime": ((str, dt.datetime), "a moment"),
}
"""The simple types of Kubernetes' model of a pod: as what YAML reads them, and what they are called."""
_QUANTITIES = frozenset({"limits", "requests", "overhead", "sizeLimit", "divisor"})
"""Fields that are text to the model, and may be numbers."""


def from_template(path: Path, pod: Manifest) -> Manifest:
    """`pod` on top of the template at `path`. Raises `ConfigError`, with the line, where that is no manifest of a pod."""
    merged: Manifest = _merged(read(path), pod)
    for container in merged["spec"].get("initContainers") or ():
        # The last lines of its log are all that an error shows of it.
        container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    return merged


def read(path: Path) -> Manifest:
    """The template at `path`. Raises `ConfigError` with the line of the first mistake."""
    _, template = document(path)
    if template.get("apiVersion", "v1") != "v1" or template.get("kind") != "Pod" or not isinstance(template.get("spec"), dict):
        raise ConfigError(f"{path}: not a pod; write a manifest with `apiVersion: v1`, `kind: Pod` and `spec:`")
    for place, message in chain(_mistakes(template, "V1Pod", ()), _amiss(template)):
        raise ConfigError(f"{path}:{line_of(path, *place)}: {_dotted(place)}: {message}")
    return template


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


def _amiss(template: Manifest) -> Iterator[tuple[Place, str]]:
    """What Kubernetes would take, and no stage could live with: (place, rule and remedy)."""
    for index, container in enumerate(template["spec"]["containers"]):
        place: Place = ("spec", "containers", index)
        if container["name"] == CONTAINER and "args" in container:
            yield (*place, "args"), "they would be added to the command, which is Sluice's; remove them"
        if container["name"] == CONTAINER:
            for key in sorted(POD_SECURITY.keys() & (container.get("securityContext") or {}).keys()):
                yield (*place, "securityContext", key), "Sluice sets it for the whole pod, and this would take its place; remove it"
        if container["name"] != CONTAINER and "image" not in container:
            yield place, f"a container beside the stage's own needs an `image`; name one, or call it {CONTAINER}, which is the stage's"


def _mistakes(value: Any, kind: str, place: Place) -> Iterator[tuple[Place, str]]:
    """What of `value`, which stands at `place`, is not of `kind`, a type in Kubernetes' model of a pod: (place, rule and remedy)."""
    inner = re.fullmatch(r"(list|dict)\[(?:str, )?(.+)\]", kind)
    if value is None or kind == "object":
        return
    if kind in _SIMPLE:
        if not _is(value, kind, place):
            yield place, f"{_SIMPLE[kind][1]} is expected, not {value!r:.80}; {'put it in quotes' if kind == 'str' else 'correct it'}"
    elif inner is not None and inner[1] == "list":
        if not isinstance(value, list):
            yield place, f"a list is expected, not {value!r:.80}; correct it"
            return
        for index, item in enumerate(value):
            if item is None:
                yield (*place, index), "nothing stands here; write it, or remove the hyphen"
            yield from _mistakes(item, inner[2], (*place, index))
    elif not isinstance(value, dict):
        yield place, f"a mapping is expected, not {value!r:.80}; correct it"
    elif inner is not None:
        for key, item in value.items():
            yield from (*_mistakes(key, "str", (*place, key)), *_mistakes(item, inner[2], (*place, key)))
    else:
        yield from _mistakes_of_object(value, kind, place)


def _is(value: Any, kind: str, place: Place) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    as_good = kind == "str" and isinstance(value, int | float) and bool(_QUANTITIES.intersection(place))
    return as_good or isinstance(value, _SIMPLE[kind][0])


def _mistakes_of_object(value: Manifest, kind: str, place: Place) -> Iterator[tuple[Place, str]]:
    from kubernetes import client

    model = getattr(client, kind)
    names = {key: name for name, key in model.attribute_map.items()}
    for key, item in value.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            yield (*place, key), f"a pod has no such field{f' (did you mean {near[0]}?)' if near else ''}; correct it or remove it"
            return
        yield from _mistakes(item, model.openapi_types[names[key]], (*place, key))
    try:
        model(**{names[key]: item for key, item in value.items()})
    except ValueError as error:  # the model's word for a field that it must have, and has not
        [missing] = re.findall(r"`(\w+)`, must not be", str(error))
        yield place, f"`{model.attribute_map[missing]}` is missing; add it"


def _dotted(place: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".") or "pod"
