"""Where things are and where they run: the project's folders, its profiles, and reading YAML with good errors.

`load` names file, line, field, rule and remedy of each mistake. This module is read at every DAG parse: it imports
pydantic, PyYAML and croniter alone, and does no I/O but reading the YAML file it is asked for.
"""

import datetime as dt
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from pipelines_lib.cluster import Images, Kubernetes
from pipelines_lib.contracts import TUNE
from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import ConnectionName, Settings, UseCase
from pipelines_lib.use_case.base import Duration, connections_in
from pipelines_lib.use_case.rules import FieldErrors

S = TypeVar("S", bound=Settings)


class Spark(Settings):
    """Spark, for a profile whose `engine` it is."""

    master: str = "local[2]"
    """Where it runs: `local[<cores>]`, `spark://…`, `yarn`, `k8s://…`. Executors need Sluice's package, and the store under the same path."""
    tasks: int = Field(default=8, ge=1, le=10_000)
    """Into how many tasks a partition is split: two or three times the cores, and enough that a task's rows fit into its memory."""
    conf: dict[str, str] = Field(default_factory=dict)
    """Settings of Spark's own, such as spark.executor.memory."""


class Prices(Settings):
    """What a cloud asks for an hour."""

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    """Its code, such as USD or CNY; nothing is converted."""
    cpu_hour: float = Field(ge=0)
    """One CPU for an hour."""
    memory_gib_hour: float = Field(ge=0)
    """One GiB of memory for an hour."""
    gpu_hour: dict[str, Annotated[float, Field(ge=0)]]
    """One GPU for an hour: a part of the name that its driver tells (`H100`) to the price, and `default` for those not named."""

    @field_validator("gpu_hour")
    @classmethod
    def _has_a_default(cls, value: dict[str, float]) -> dict[str, float]:
        if "default" not in value:
            raise ValueError("there is no `default`, so a GPU that is not named would cost nothing; add one")
        return value

    def of_gpu(self, name: str) -> float:
        """The price of the GPU that its driver calls `name`; of several parts of the name the longest counts."""
        # As a word: an A10 is no A100.
        parts = [part for part in self.gpu_hour if re.search(rf"(?<![^\W_]){re.escape(part)}(?![^\W_])", name, re.IGNORECASE)]
        return self.gpu_hour[max(parts, key=len)] if parts else self.gpu_hour["default"]


class CheckpointStore(Settings):
    """Where trainings keep their checkpoints."""

    path: str = Field(min_length=1)
    """A folder that all workers share (`{home}` is the state folder), or s3://bucket/prefix. Each training has a folder of its own in it."""
    connection: ConnectionName | None = None
    """The way into a bucket, as a source has it; without one boto3 looks where it always does."""

    @model_validator(mode="after")
    def _folder_needs_no_way_in(self) -> Self:
        if self.connection is not None and not self.path.startswith("s3://"):
            raise ValueError(f"`connection` opens a bucket, and {self.path} is a folder; remove it, or write s3://bucket/prefix")
        return self

    def of(self, name: str) -> str:
        """The place of the training `name`."""
        return f"{self.path.rstrip('/')}/{name}"


class Alert(Settings):
    """One way by which people are told."""

    to: Literal["mail", "slack", "webhook"]
    connection: ConnectionName
    """Airflow's connection. Of a mail server: type SMTP. Of Slack or a webhook: type HTTP, the address up to the secret part as host, that part as
    password (or a login and a password, or headers under extra)."""
    address: tuple[str, ...] = ()
    """Who gets the mail."""

    @model_validator(mode="after")
    def _mail_has_an_address(self) -> Self:
        if (self.to == "mail") != bool(self.address):
            if self.to == "mail":
                raise ValueError("mail needs an `address`; add it, such as [ops@example.com]")
            raise ValueError(f"`address` is for mail, and this goes to {self.to}; remove it")
        return self


class Profile(Settings):
    """Where things run: `include/profiles/<name>.yaml`."""

    name: str
    store: str
    """The object store: a folder (`{home}` is the state folder), or s3://bucket/prefix of S3 or of a store that speaks its language."""
    store_connection: ConnectionName | None = None
    """The way into the store's bucket, as a source has it; without one boto3 looks where it always does (a pod's or a machine's role)."""
    tracking_uri: str
    """MLflow's tracking and registry server; `{home}` is the state folder."""
    mlflow_url: str | None = None
    """Where a person finds the MLflow pages."""
    system_metrics_seconds: float = Field(default=10, ge=0)
    """Between two samples of a training machine's load (CPU, memory, disk, network, GPU) for its MLflow run; 0 for none."""
    airflow_url: str | None = None
    """Where a person finds Airflow."""
    grace_seconds: float = Field(default=3, ge=0, lt=5)
    """How long a cancelled job may take to end by itself. Airflow kills the task 5 seconds after it asked it to stop."""
    launcher: Literal["local", "kubernetes", "trainjob"] = "local"
    """How a task of Airflow runs its stage: as processes of the worker's machine, or as a pod; with `trainjob` the training is a TrainJob of
    Kubeflow's, and every other stage a pod."""
    kubernetes: Kubernetes | None = None
    """The cluster, for the launchers that have one."""
    engine: Literal["local", "spark"] = "local"
    """What goes through the rows of a partition in validate and prepare: this process, or Spark. The rows come out the same."""
    spark: Spark = Spark()
    alerts: tuple[Alert, ...] = ()
    """Who is told of failed tasks, of retrainings and alerts of the governor, and of monitoring that is late."""
    monitoring_late: Duration = timedelta(hours=3)
    """After how long a monitoring run that was queued and has not ended is late."""
    training_pool: str = "default_pool"
    """Airflow pool of the train tasks, and of the trials of a tuning; a pool with few slots keeps trainings from fighting for the machine."""
    tuning_storage: str = "sqlite:///{home}/tuning/tuning.db"
    """Where the trials of a tuning know of each other: a database's URL without a password; `{home}` is the state folder. SQLite is for
    the processes of one machine."""
    tuning_connection: ConnectionName | None = None
    """The connection that the database's address and password are in, in place of `tuning_storage`, for trials on several machines."""
    scratch: str | None = None
    """A fast folder of the machine that trains, for the arrays of a training while it lasts; the stage's own folder in the store where there is
    none. A folder that is kept in memory takes that from the training."""
    checkpoints: CheckpointStore | None = None
    """Where trainings keep their checkpoints, where that is not in the store, beside their results."""
    prices: dict[str, Prices] = Field(default_factory=dict)
    """Cloud to its prices: what a run cost is shown for each of them."""
    cloud: str | None = None
    """The cloud of `prices` in whose currency budgets are given."""

    @field_validator("tuning_storage")
    @classmethod
    def _holds_no_secret(cls, value: str) -> str:
        if re.match(r"[^/]*://[^/@]*:[^/@]*@", value):
            raise ValueError(
                "a password does not belong into a profile; put the address into a connection, and its name into `tuning_connection`"
            )
        return value

    @field_validator("store")
    @classmethod
    def _is_a_folder_or_a_bucket(cls, value: str) -> str:
        scheme, colon, rest = value.partition("://")
        if colon and scheme != "s3":
            raise ValueError(
                f"{value!r} is neither a folder nor s3://bucket/prefix; stores that speak S3's language go by s3:// and `store_connection`"
            )
        if colon and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", rest):
            raise ValueError(f"{value!r} names no bucket; write s3://bucket/prefix")
        return value

    @model_validator(mode="after")
    def _folder_needs_no_way_in(self) -> Self:
        if self.store_connection is not None and not self.store.startswith("s3://"):
            raise FieldErrors(
                [
                    (
                        ("store_connection",),
                        f"it opens a bucket, and `store` is the folder {self.store}; remove it, or write s3://bucket/prefix there",
                    )
                ]
            )
        return self

    @model_validator(mode="after")
    def _launcher_has_its_settings(self) -> Self:
        if self.launcher != "local" and self.kubernetes is None:
            rule = f"`{self.launcher}` needs the settings of a cluster; write `kubernetes:` with namespace and images, as include/profiles/cluster.yaml does"
            raise FieldErrors([(("launcher",), rule)])
        return self

    @model_validator(mode="after")
    def _cloud_has_prices(self) -> Self:
        if self.cloud is not None and self.cloud not in self.prices:
            raise FieldErrors(
                [
                    (
                        ("cloud",),
                        f"{self.cloud!r} has no prices; there are those of {', '.join(self.prices) or 'no cloud'}. Name one, or add it",
                    )
                ]
            )
        return self

    def connections(self, stage: str) -> list[str]:
        """Names of the connections that `stage` needs whatever the use case."""
        store = [] if self.store_connection is None else [self.store_connection]
        trials = [self.tuning_connection] if stage == TUNE and self.tuning_connection is not None else []
        checkpoints = connections_in(self.checkpoints) if stage in ("train", TUNE) else ()
        return list(dict.fromkeys([*store, *trials, *checkpoints]))


@dataclass(frozen=True)
class Project:
    """Where a checkout keeps its things; each can be moved by an environment variable."""

    folder: Path
    """SLUICE_PROJECT: the folder with `dags/` and `include/`."""
    home: Path
    """SLUICE_HOME: the ignored folder with all state; `.sluice` in the project's folder by default."""
    use_cases: Path
    """SLUICE_USE_CASES: the folder with one folder a use case."""
    profile_name: str
    """SLUICE_PROFILE: which file of `include/profiles` says where things run."""

    @classmethod
    def from_environment(cls) -> Self:
        """The project this process works on."""
        folder = Path(os.environ.get("SLUICE_PROJECT") or Path(__file__).resolve().parents[1])
        return cls(
            folder=folder,
            home=Path(os.environ.get("SLUICE_HOME") or folder / ".sluice"),
            use_cases=Path(os.environ.get("SLUICE_USE_CASES") or folder / "include" / "use_cases"),
            profile_name=os.environ.get("SLUICE_PROFILE", "local"),
        )

    def profile(self, name: str | None = None) -> Profile:
        """The profile in force: `{home}` filled in, addresses from SLUICE_AIRFLOW_URL and SLUICE_MLFLOW_URL where set, images from SLUICE_IMAGE."""
        name = name or self.profile_name
        if not re.fullmatch(r"[a-z0-9_-]+", name):
            raise ConfigError(
                f"profile {name!r}: a name holds lower-case letters, digits, - and _; set SLUICE_PROFILE to a file name of include/profiles without .yaml"
            )
        path = self.folder / "include" / "profiles" / f"{name}.yaml"
        if not path.exists():
            raise ConfigError(
                f"profile {name!r}: there is no {path}; set SLUICE_PROFILE to one of {sorted(p.stem for p in path.parent.glob('*.yaml'))}"
            )
        profile = load(path, Profile)
        moved = ("store", "tracking_uri", "tuning_storage")
        changed: dict[str, Any] = {key: getattr(profile, key).replace("{home}", str(self.home)) for key in moved}
        if profile.checkpoints is not None:
            kept = profile.checkpoints
            changed["checkpoints"] = kept.model_copy(update={"path": kept.path.replace("{home}", str(self.home))})
        for key in ("airflow_url", "mlflow_url"):
            variable = f"SLUICE_{key.upper()}"
            if url := os.environ.get(variable):
                if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
                    raise ConfigError(f"{variable}={url!r} is not an address; write it with its scheme, such as http://127.0.0.1:8090")
                changed[key] = url.rstrip("/")
        if profile.kubernetes is not None and (image := os.environ.get("SLUICE_IMAGE")):
            changed["kubernetes"] = profile.kubernetes.model_copy(update={"images": _only(image)})
        return profile.model_copy(update=changed)

    def pod_template(self, name: str) -> Path:
        """The file of the pod template called `name`. Raises `ConfigError` where there is none."""
        path = self.folder / "include" / "pod_templates" / f"{name}.yaml"
        if not path.exists():
            raise ConfigError(
                f"pod template {name!r}: there is no {path}; there are {sorted(p.stem for p in path.parent.glob('*.yaml'))}. Write it, or name one of "
                "these under kubernetes.templates of the profile"
            )
        return path

    def use_case(self, name: str) -> UseCase:
        """The use case called `name`. Raises `ConfigError`."""
        if name not in (names := self.use_case_names()):
            raise ConfigError(
                f"there is no use case {name!r} in {self.use_cases}; there are: {', '.join(names) or 'none'}. `sluice new` makes one"
            )
        return load_use_case(self.use_cases / name)

    def use_case_names(self) -> list[str]:
        """Names of the folders that hold a use_case.yaml, sorted."""
        return sorted(p.parent.name for p in self.use_cases.glob("*/use_case.yaml"))

    def use_cases_or_errors(self) -> tuple[list[UseCase], dict[str, ConfigError]]:
        """Every use case that is right, and the error of every one that is not: a broken one never hides the others."""
        good, broken = [], {}
        for name in self.use_case_names():
            try:
                good.append(load_use_case(self.use_cases / name))
            except ConfigError as error:
                broken[name] = error
        return good, broken


def _only(image: str) -> Images:
    """`image` for whatever pods run."""
    try:
        return Images(cpu=image, cuda=image, serving=image)
    except ValidationError as error:
        raise ConfigError(f"SLUICE_IMAGE: {error.errors()[0]['ctx']['error']}") from error


def load_use_case(folder: Path) -> UseCase:
    """Read `folder/use_case.yaml`. Raises `ConfigError` with file, line, field, rule and remedy of every mistake."""
    path = folder / "use_case.yaml"
    use_case = load(path, UseCase)
    if use_case.name != folder.name:
        raise ConfigError(
            f"{path}:1: name: {use_case.name!r} differs from its folder's name {folder.name!r}; they must be the same, so rename one"
        )
    if use_case.source.land and not (folder / "hooks.py").exists():
        raise ConfigError(
            f"{path}: source.land: there is no hooks.py beside it; write one with land(partition_key, path, params), or remove `land`"
        )
    return use_case


def load(path: Path, model: type[S]) -> S:
    """Read the YAML file `path` as `model`. Raises `ConfigError` that lists every mistake with its line."""
    root, values = document(path)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [line for e in error.errors() for line in _explain(path, root, model, e)]
        raise ConfigError("\n".join(problems)) from error


def document(path: Path) -> tuple[yaml.MappingNode, dict[str, Any]]:
    """The mapping in the YAML file `path`: with the lines of its text, and as values. Raises `ConfigError` with the line where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}; check indentation, colons and quotes near this line") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:1: expected settings as `key: value` lines, found {'nothing' if root is None else 'something else'}")
    try:
        values: dict[str, Any] = _Loader("").construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}") from error
    return root, values


def line_of(path: Path, *location: str | int) -> int:
    """Line of the setting at `location` (its deepest part that stands in the file) of the valid YAML file `path`."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    assert root is not None
    return _line(root, location)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that refuses a key written twice instead of dropping the first, and takes the keys `on`, `off`, `yes` and `no` for the words they are."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:bool" and key.value.casefold() not in ("true", "false"):
                key.tag = "tag:yaml.org,2002:str"
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is written twice; remove one", key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def _explain(path: Path, root: yaml.Node, model: type[BaseModel], error: Any) -> Iterator[str]:
    """One line a mistake: `file:line: field: rule and remedy`."""
    cause = error.get("ctx", {}).get("error")
    # pydantic's own checks of dates put a text there; ours raise an exception whose message says it all.
    cause = cause if isinstance(cause, Exception) else None
    if isinstance(cause, FieldErrors):
        for location, message in cause.problems:
            yield f"{path}:{_line(root, location)}: {_dotted(location)}: {message}"
        return
    location = error["loc"]
    message = str(cause) if cause is not None else error["msg"]
    match error["type"]:
        case "extra_forbidden":
            known = ", ".join(_fields_at(model, location[:-1]))
            message = f"unknown key; known here are: {known}. Fix the spelling or remove it"
        case "missing":
            message = "required, and missing; add it"
        case _ if cause is None:
            remedy = "put it in quotes, or YAML reads a date" if isinstance(error["input"], dt.date) else "change the value"
            message = f"{message} (found {error['input']!r:.80}); {remedy}"
    yield f"{path}:{_line(root, location)}: {_dotted(location)}: {message}"


def _dotted(location: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in location) or "use case"


def _line(node: yaml.Node, location: tuple[str | int, ...]) -> int:
    """Line of the deepest part of `location` that stands in the file."""
    line = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return int(line)


def _fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The keys that are known at `location` of `model`."""
    current: Any = model
    for part in location:
        current = _below(current, part)
    return list(current.model_fields) if _is_model(current) else []


def _below(annotation: Any, part: str | int) -> Any:
    """What stands under `part` of a model, a list, a mapping, or one of these or null; None where nothing does."""
    if _is_model(annotation):
        field = annotation.model_fields.get(part)
        return None if field is None else _without_null(field.annotation)
    arguments = get_args(annotation)
    return _without_null(arguments[-1]) if get_origin(annotation) in (list, dict) else None


def _without_null(annotation: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(annotation) in (Union, UnionType):
        return next((argument for argument in get_args(annotation) if argument is not type(None)), None)
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
