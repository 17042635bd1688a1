"""Links from a task to the pages about what it did: buttons in Airflow's own task view."""

from typing import Any

import attrs
from airflow.sdk import BaseOperatorLink

from pipelines_lib.config import Project


@attrs.define()
class ResultLink(BaseOperatorLink):
    """The link of this name in the stage's result; empty where the stage left none."""

    text: str = ""

    @property
    def name(self) -> str:
        """What the button says."""
        return self.text

    @property
    def xcom_key(self) -> str:
        """Where Airflow keeps the link of a task."""
        return "link_" + self.text.lower().replace(" ", "_")

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - the signature is Airflow's
        """The full address; a path below the store is served by the Sluice page."""
        target = getattr(operator, "result_links", {}).get(self.text, "")
        if not target or "://" in target:
            return str(target)
        return page_url(f"files/{target}")


def page_url(path: str) -> str:
    """Address of a page of the Sluice app inside Airflow's web server."""
    base = Project.from_environment().profile().airflow_url or ""
    return f"{base.rstrip('/')}/sluice/{path}"


LINKS = tuple(
    ResultLink(text=text) for text in ("Data quality", "Data Docs", "MLflow run", "Evaluation", "Drift report", "Service", "Trials")
)
