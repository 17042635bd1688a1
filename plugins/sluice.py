"""What Airflow itself must load: the Sluice page and the reports behind the buttons of a task."""

from airflow.plugins_manager import AirflowPlugin

from pipelines_lib.orchestration.pages import app


class SluicePlugin(AirflowPlugin):
    """Registers the page under /sluice and its entry in Airflow's navigation."""

    name = "sluice"
    fastapi_apps = [{"app": app, "url_prefix": "/sluice", "name": "Sluice"}]  # noqa: RUF012 - Airflow's form
    external_views = [{"name": "Sluice", "href": "/sluice/", "destination": "nav", "url_route": "sluice"}]  # noqa: RUF012
