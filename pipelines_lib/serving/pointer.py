"""Which model a use case serves: `<root>/deployment.json`, written by the deploy and verify stages, followed by the server.

The pointer is replaced whole, so whoever reads it sees the old deployment or the new one. Every version that was
ever deployed is remembered beside it, so monitoring finds the package behind an answer without asking the registry.
"""

from typing import Literal, Self

from pydantic import Field, ValidationError

from pipelines_lib.contracts import Contract, ModelRef
from pipelines_lib.errors import DataError
from pipelines_lib.store import StorePath, contains, read_json, write_json
from pipelines_lib.use_case import Column, ColumnType, Privacy, UseCase


class Traffic(Contract):
    """Which of the users' requests a candidate is given before it is promoted."""

    mode: Literal["canary", "shadow"]
    share: float
    pods: bool = False
    """Whether servers of its own are among those that users reach; else the champion's servers ask it."""
    until: float
    """When the servers end it by themselves, in seconds since 1970, should nobody be left to watch it."""


class Deployment(Contract):
    """The content of the pointer."""

    model: ModelRef
    state: Literal["candidate", "serving"]
    """`candidate` until verify has compared its answers with the evaluation's."""
    traffic: Traffic | None = None
    """How a candidate meets users' requests; None as long as it does not."""
    previous: "Deployment | None" = None
    """What served before, whole, to go back to: its model may take other columns. It remembers none before itself."""
    keys: dict[str, ColumnType] = Field(default_factory=dict)
    """Columns that identify a row, and the item of it where items are recommended; a request may carry them, and the prediction log keeps them."""
    required: tuple[str, ...] = ()
    """Columns that no row may lack; the quality gate let none through without."""
    refuse_unknown: bool = False
    """Whether requests with a category that the model does not know are refused."""
    key_format: str = "%Y-%m-%d"
    """`strftime` format of a partition key."""
    title: str = ""
    private: dict[str, Column] = Field(default_factory=dict)
    """The features and keys that are about a person, and the user of a recommendation: how a request's values are protected before they are logged."""
    markers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """The values that mean "missing" in these columns; no protection touches them."""
    privacy: Privacy = Privacy()

    @classmethod
    def candidate(cls, model: ModelRef, use_case: UseCase, current: "Deployment | None") -> Self:
        """The pointer that puts `model` up for verification in place of `current`."""
        asked = use_case.deployment.recommend
        keys = [*use_case.columns_with("key"), *([asked.item] if asked else [])]
        told = {*use_case.features(), *keys, *([use_case.entity] if asked else [])}
        private = {name: use_case.columns[name] for name in use_case.private() if name in told}
        return cls(
            model=model,
            state="candidate",
            previous=current.served if current else None,
            keys={name: use_case.columns[name].type for name in keys},
            required=tuple(name for name, column in use_case.columns.items() if not column.nullable),
            refuse_unknown=use_case.deployment.unknown_categories == "refuse",
            key_format=use_case.key_format,
            title=use_case.title,
            private=private,
            markers={name: tuple(found) for name in private if (found := use_case.markers(name))},
            privacy=use_case.privacy,
        )

    @property
    def champion(self) -> ModelRef | None:
        """The newest version that passed its verification."""
        return self.served.model if self.served else None

    @property
    def served(self) -> "Deployment | None":
        """The newest deployment that passed its verification."""
        return self.model_copy(update={"previous": None}) if self.state == "serving" else self.previous

    def verified(self) -> "Deployment":
        """This deployment once its answers have been found right."""
        return self.model_copy(update={"state": "serving", "traffic": None})

    def meeting(self, traffic: Traffic | None) -> "Deployment":
        """This candidate as it meets users' requests."""
        return self.model_copy(update={"traffic": traffic})

    def rolled_back(self) -> "Deployment | None":
        """The deployment that served before this candidate; None where nothing did."""
        return self.previous


def pointer_path(root: StorePath) -> StorePath:
    """The pointer of the use case whose folder in the store is `root`."""
    return root / "deployment.json"


def read_pointer(root: StorePath) -> Deployment | None:
    """The current deployment, or None where nothing is deployed. Raises `DataError` where the pointer is damaged."""
    path = pointer_path(root)
    try:
        return Deployment.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{path} is not a deployment: {error}. Delete it and run the deploy stage again") from error


def write_pointer(root: StorePath, deployment: Deployment | None) -> None:
    """Point to `deployment`, or to nothing."""
    if deployment is None:
        pointer_path(root).unlink(missing_ok=True)
        return
    write_json(_memory(root, deployment.model.version), deployment.model)
    write_json(pointer_path(root), deployment)


def deployed_version(root: StorePath, version: int) -> ModelRef | None:
    """The model that was deployed as `version`, or None where none was."""
    try:
        return ModelRef.model_validate(read_json(_memory(root, version)))
    except FileNotFoundError:
        return None


def package_folder(root: StorePath, model: ModelRef) -> StorePath:
    """Where the model's package lies. Raises `DataError` where the reference points out of the store."""
    store = root.parent
    folder = (store / model.package).resolve()
    if not contains(store, folder):
        raise DataError(f"package {model.package!r} of version {model.version} lies outside the store {store}; register the model again")
    return folder


def _memory(root: StorePath, version: int) -> StorePath:
    return root / "deployments" / f"{version}.json"
