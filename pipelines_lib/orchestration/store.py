"""The store, opened with Airflow's own connection."""

import os
from contextlib import suppress

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from pipelines_lib.config import Profile
from pipelines_lib.connections import variable_of
from pipelines_lib.store import StorePath, store_of


def open_store(profile: Profile) -> StorePath:
    """The profile's store. A connection that Airflow lacks may be in this process's environment. Raises `ConfigError`."""
    environment = dict(os.environ)
    if profile.store_connection is not None:
        # Where Airflow has none, `store_of` finds it in the environment, or says what to do.
        with suppress(AirflowNotFoundException):
            environment[variable_of(profile.store_connection)] = Connection.get(profile.store_connection).as_json()
    return store_of(profile, environment)
