"""Shows each use case that is not right as an Airflow import error; a file of its own, so that the DAGs of the others stay."""

from pipelines_lib.config import Project
from pipelines_lib.errors import ConfigError

_, broken = Project.from_environment().use_cases_or_errors()
if broken:
    raise ConfigError("\n\n".join(f"use case {name}:\n{error}" for name, error in broken.items()))
