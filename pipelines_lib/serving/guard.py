"""Columns about a person in a request: protected as the data pipeline protects them, before the model or the log sees them.

So the model meets the bins and masks that it was trained on, whoever asks, and the log holds the hashes that monitoring finds the
truth by. Without the key an identifier is not logged at all: no log is better than one with names in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from pipelines_lib.data.privacy import generalised
from pipelines_lib.data.pseudonyms import Pseudonyms, hashed_under, known_secret
from pipelines_lib.data.typed import cast
from pipelines_lib.errors import ConfigError
from pipelines_lib.serving.pointer import Deployment
from pipelines_lib.serving.rows import Rows, refuse
from pipelines_lib.store import StorePath
from pipelines_lib.use_case import Column


@dataclass(frozen=True)
class Guard:
    """What is done to the columns of a deployment."""

    columns: Mapping[str, Column]
    """Features and keys whose values are changed."""
    pseudonyms: Pseudonyms | None = None
    problem: str | None = None
    """Why identifiers are not logged."""
    markers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The values of a column that mean "missing"."""

    @classmethod
    def of(cls, deployment: Deployment, root: StorePath, home: Path | None) -> Self:
        """For the deployment of the use case whose folder in the store is `root`. `home` is the state folder, where this machine has one."""
        columns = {name: column for name, column in deployment.private.items() if column.protection is not None}
        markers = deployment.markers
        if not any(_is_hashed(column) for column in columns.values()):
            return cls(columns, markers=markers)
        name = deployment.privacy.connection
        remedy = f"give the service the key in connection {name!r} that ingest has, and start it again"
        try:
            secret = known_secret(name, home)
        except ConfigError as error:
            return cls(columns, markers=markers, problem=str(error))
        if secret is None:
            return cls(columns, markers=markers, problem=f"there is no key to hash them with; {remedy}")
        pseudonyms = Pseudonyms.under(secret, deployment.privacy.domain or root.name)
        if (before := hashed_under(root)) not in (None, pseudonyms.fingerprint):
            return cls(
                columns,
                markers=markers,
                problem=f"the key is {pseudonyms.fingerprint}, and the tables were hashed under {before}; {remedy}",
            )
        return cls(columns, pseudonyms, markers=markers)

    def protected(self, rows: Rows) -> Rows:
        """The rows as the data pipeline would have them. Raises `RequestError` where a number lies in none of its bins."""
        if not self.columns:
            return rows
        keys = {name: values for name, values in rows.keys.items() if not self._is_unlogged(name)}
        return replace(
            rows,
            columns={name: self._protected(name, values) for name, values in rows.columns.items()},
            keys={name: self._protected(name, values) for name, values in keys.items()},
        )

    @property
    def unlogged(self) -> list[str]:
        """Names of the keys that are left out of the log."""
        return [name for name in self.columns if self._is_unlogged(name)]

    def _is_unlogged(self, name: str) -> bool:
        return self.pseudonyms is None and name in self.columns and _is_hashed(self.columns[name])

    def _protected(self, name: str, values: list[Any]) -> list[Any]:
        column = self.columns.get(name)
        if column is None:
            return values
        texts = pa.array([value if value is None or isinstance(value, str) else repr(value) for value in values], pa.string())
        markers = list(self.markers.get(name, ()))
        found: list[str | None] = generalised(texts, column, self.pseudonyms, markers).to_pylist()
        done = column.protection
        if done is None or done.bins is None:
            return found
        missing = cast(pa.array(markers, pa.string()), column.type)[0].drop_null().to_pylist()
        return [None if text is None else self._bound(name, row, text, [*done.bins, *missing]) for row, text in enumerate(found)]

    def _bound(self, name: str, row: int, text: str, bounds: list[float]) -> float | int:
        try:
            bound = float(text)
        except ValueError:
            bound = float("nan")
        if bound not in bounds:
            rule = f"its values are kept in bins, the first of which begins at {bounds[0]:g}"
            refuse("found a number in none of its bins", f"column {name!r}, row {row}", rule, "Correct the value")
        return int(bound) if self.columns[name].type == "integer" else bound


def _is_hashed(column: Column) -> bool:
    done = column.protection
    return done is not None and done.hash is True
