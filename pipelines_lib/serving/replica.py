"""One server of a use case: where it answers, and asking it."""

import http.client
import json
from dataclasses import dataclass, field
from typing import Any

from pipelines_lib.serving.access import bearer


@dataclass(frozen=True)
class Replica:
    """One server of a use case's service."""

    host: str
    port: int
    token: str | None = field(default=None, repr=False)
    """What requests must carry, where they must."""

    def ask(self, path: str, document: Any = None, timeout: float = 30) -> tuple[int, Any]:
        """Status and JSON of a request: GET, or POST of `document`. Raises `OSError` where nobody answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            if document is None:
                connection.request("GET", path, headers=bearer(self.token))
            else:
                connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json", **bearer(self.token)})
            response = connection.getresponse()
            body = response.read()
        except http.client.HTTPException as error:
            raise OSError(f"{self.host}:{self.port} does not speak HTTP: {error!r}") from error
        finally:
            connection.close()
        return response.status, json.loads(body) if body else None
