"""What the API server does to objects: which of them a selector takes, and what a patch makes of one."""

import re
from collections.abc import Callable
from typing import Any

Object = dict[str, Any]


def selector(query: dict[str, str]) -> Callable[[Object], bool]:
    """Whether an object is among those that the query's labelSelector and fieldSelector ask for."""
    labels = [part.strip() for part in re.split(r",(?![^(]*\))", query.get("labelSelector", "")) if part.strip()]
    fields = [part.strip() for part in query.get("fieldSelector", "").split(",") if part.strip()]

    def fits(found: Object) -> bool:
        own = found["metadata"].get("labels") or {}
        return all(_has_label(own, part) for part in labels) and all(_has_field(found, part) for part in fields)

    return fits


def _has_label(labels: dict[str, str], asked: str) -> bool:
    if among := re.fullmatch(r"(\S+) (in|notin) ?\(([^)]*)\)", asked):
        values = [value.strip() for value in among[3].split(",")]
        return (labels.get(among[1]) in values) == (among[2] == "in")
    if "=" in asked:
        name, value = re.split(r"!=|==|=", asked, maxsplit=1)
        return (labels.get(name.strip()) == value.strip()) != ("!=" in asked)
    return asked[1:].strip() not in labels if asked.startswith("!") else asked in labels


def _has_field(found: Object, asked: str) -> bool:
    path, value = re.split(r"!=|==|=", asked, maxsplit=1)
    current: Any = found
    for part in path.split("."):
        current = (current or {}).get(part)
    return (str(current or "") == value) != ("!=" in asked)


def merge(under: Object, over: Object, *, by_key: bool) -> None:
    """Lay `over` over `under`: null removes; lists of objects are merged by their key where `by_key`, and replaced otherwise."""
    for name, value in over.items():
        old = under.get(name)
        if value is None:
            under.pop(name, None)
        elif isinstance(value, dict) and isinstance(old, dict):
            merge(old, value, by_key=by_key)
        elif by_key and isinstance(value, list) and isinstance(old, list) and (key := _merge_key(value + old)):
            for item in value:
                same = next((each for each in old if each[key] == item[key]), None)
                if same is None:
                    old.append(item)
                else:
                    merge(same, item, by_key=True)
        else:
            under[name] = value


def _merge_key(items: list[Any]) -> str | None:
    return next(
        (key for key in ("mountPath", "type", "name", "ip") if items and all(isinstance(item, dict) and key in item for item in items)),
        None,
    )


def patch_json(found: Object, operations: list[Object]) -> None:
    for operation in operations:
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        target: Any = found
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target[part]
        place: Any = int(last) if isinstance(target, list) and last != "-" else last
        if operation["op"] == "remove":
            del target[place]
        elif isinstance(target, list) and operation["op"] == "add":
            target.insert(len(target) if place == "-" else place, operation["value"])
        else:
            target[place] = operation["value"]
