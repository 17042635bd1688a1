"""The versions of a use case's model: MLflow's registry, with the aliases champion, challenger and previous."""

from collections.abc import Mapping
from functools import partial

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines_lib.contracts import ModelRef
from pipelines_lib.errors import DataError
from pipelines_lib.registry.tracking import retried

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

_PACKAGE, _RUN = "sluice.package", "sluice.run_id"


class ModelRegistry:
    """The versions of the model called `name`."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self._client = client
        self._name = name

    def champion(self) -> ModelRef | None:
        """The version that serves, or None."""
        return self._at(CHAMPION)

    def register(
        self,
        package: str,
        uri: str,
        mlflow_run_id: str,
        run_id: str,
        *,
        model_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> ModelRef:
        """The version of the package at `package` (below the store; at `uri` MLflow has it as the logged model `model_id`), and the alias challenger.

        Registering the same package of the same run again returns the version there is, with the `tags` of now.
        """
        self._make_model()
        versions = retried(lambda: self._client.search_model_versions(f"run_id = '{mlflow_run_id}'"))
        there = [version for version in versions if version.name == self._name and version.tags.get(_PACKAGE) == package]
        own = {**(tags or {}), _PACKAGE: package, _RUN: run_id}
        create = partial(self._client.create_model_version, self._name, uri, mlflow_run_id, own)
        found = self._ref(there[0] if there else retried(lambda: create(description=description or None, model_id=model_id)))
        if there:
            self.tag(found.version, tags or {})
        champion = self.champion()
        if champion is None or champion.version != found.version:
            self._point(CHALLENGER, found.version)
        return found

    def promote(self, version: int) -> ModelRef:
        """Make `version` the champion; the champion so far becomes previous. Promoting the champion changes nothing."""
        wanted = self.version(version)
        champion = self.champion()
        if champion is None or champion.version != version:
            # In this order a promotion that is cut short leaves the old champion, and doing it again mends the rest.
            if champion is not None:
                self._point(PREVIOUS, champion.version)
            self._point(CHAMPION, version)
        challenger = self._at(CHALLENGER)
        if challenger is not None and challenger.version == version:
            retried(lambda: self._client.delete_registered_model_alias(self._name, CHALLENGER))
        return wanted

    def tag(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of the version."""
        for name, value in tags.items():
            retried(lambda name=name, value=value: self._client.set_model_version_tag(self._name, str(version), name, value))  # type: ignore[misc]

    def version(self, version: int) -> ModelRef:
        """The version of this number. Raises `DataError` where there is none."""
        try:
            return self._ref(retried(lambda: self._client.get_model_version(self._name, str(version))))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise DataError(f"model {self._name} has no version {version}; the MLflow page lists those there are") from error

    def _at(self, alias: str) -> ModelRef | None:
        try:
            return self._ref(retried(lambda: self._client.get_model_version_by_alias(self._name, alias)))
        except MlflowException as error:
            # MLflow says INVALID_PARAMETER_VALUE for an alias that is not set, RESOURCE_DOES_NOT_EXIST for a model that is not there.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None

    def _point(self, alias: str, version: int) -> None:
        retried(lambda: self._client.set_registered_model_alias(self._name, alias, str(version)))

    def _make_model(self) -> None:
        try:
            retried(lambda: self._client.create_registered_model(self._name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _ref(self, version: ModelVersion) -> ModelRef:
        return ModelRef(name=self._name, version=int(version.version), package=version.tags[_PACKAGE], run_id=version.run_id or "")
