"""A use case of loans, for whoever trains or judges models: what its rows are."""

from typing import Any

LOANS: dict[str, Any] = {
    "name": "credit",
    "title": "Credit",
    "owner": "tests",
    "task": "binary",
    "start": "2026-01-01",
    "source": {"path": "{home}/in/{partition}.csv"},
    "columns": {
        "who": {"type": "string", "role": "entity"},
        "income": {"type": "number"},
        "age": {"type": "integer"},
        "member": {"type": "boolean"},
        "town": {"type": "string"},
        "outcome": {"type": "string", "role": "label"},
    },
    "label": {"column": "outcome", "positive": "bad"},
}
