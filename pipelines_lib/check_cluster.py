"""The part of `sluice check` about stages that are pods: what can be told of profile, pod templates and use case without asking the cluster."""

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from pipelines_lib.cluster import Kubernetes
from pipelines_lib.config import Profile, Project, line_of
from pipelines_lib.connections import variable_of
from pipelines_lib.contracts import EXTRA_STAGES, STAGES, TUNE
from pipelines_lib.errors import ConfigError
from pipelines_lib.pods.template import CONTAINER, WRITABLE, Manifest, read
from pipelines_lib.serving.objects import deployment
from pipelines_lib.use_case import UseCase

At = Callable[..., str]

_TRAINING = ("train", TUNE)
"""The stages that train."""


def check_profile(project: Project) -> list[str] | None:
    """Every problem of the profile in force and its templates as `file:line: field: rule and remedy`; None where it is right and has no pods."""
    try:
        profile = project.profile()
    except ConfigError as error:
        return str(error).splitlines()
    if profile.launcher == "local" or profile.kubernetes is None:
        return None
    settings = project.folder / "include" / "profiles" / f"{project.profile_name}.yaml"

    def at(message: str, *field: str | int) -> str:
        return f"{settings}:{line_of(settings, *field)}: {'.'.join(map(str, field))}: {message}"

    templates, problems = _templates(project, profile.kubernetes, at)
    return [
        *problems,
        *_places(profile, profile.kubernetes, templates, at),
        *_tracking(profile, at),
        *_service(project, profile, templates, at),
    ]


def use_case_problems(project: Project, use_case: UseCase, at: At) -> Iterator[str]:
    """What of a use case works in processes of one machine alone, where the profile's stages are pods."""
    try:
        profile = project.profile()
    except ConfigError:
        return  # `check_profile` tells it
    if profile.launcher == "local" or profile.kubernetes is None:
        return
    if use_case.tuning is not None and profile.tuning_connection is None and profile.tuning_storage.startswith("sqlite:"):
        yield at(
            f"trials are pods, each of which would have a SQLite file of its own; name a connection to a database as tuning_connection of profile {profile.name}",
            "tuning",
        )
    if (token := use_case.deployment.token) is not None and not profile.kubernetes.secrets:
        yield at(
            f"the servers outlive the task that has connection {token.connection!r}; put it into a Secret of namespace {profile.kubernetes.namespace} as "
            f"{variable_of(token.connection)}, and name that under kubernetes.secrets of profile {profile.name}",
            *("deployment", "token"),
        )
    templates, _ = _templates(project, profile.kubernetes, at)
    ingest = templates.get(profile.kubernetes.template_of("ingest"))
    sources = [
        (("source", "path"), use_case.source),
        *((("joins", index, "source", "path"), join.source) for index, join in enumerate(use_case.joins)),
    ]
    if use_case.label.join is not None:
        sources.append((("label", "join", "source", "path"), use_case.label.join.source))
    for field, source in sources:
        folder = (source.path or "").replace("{home}", str(project.home))
        if source.land or source.replay is not None or not folder.startswith("/") or ingest is None or _is_mounted(folder, ingest):
            continue  # fetched by the pod itself, part of the image, or in a bucket
        yield at(
            f"{source.path} is on no disk of a pod; write s3://bucket/…, let `land` fetch the file, or mount a volume there in the pod template "
            f"{profile.kubernetes.template_of('ingest')}",
            *field,
        )


def _templates(project: Project, kubernetes: Kubernetes, at: At) -> tuple[dict[str, Manifest], list[str]]:
    """(name to template of those that pods are made with, problems of the others)."""
    stages = [stage for known in (STAGES, EXTRA_STAGES) for each in known.values() for stage in each]
    used = {kubernetes.template_of(stage): "gpu" if kubernetes.of(stage).gpu else "cpu" for stage in stages}
    templates, problems = {}, []
    for name, field in {**used, kubernetes.templates.serving: "serving"}.items():
        try:
            path = project.pod_template(name)
        except ConfigError as error:
            problems.append(at(str(error), "kubernetes", "templates", field))
            continue
        try:
            templates[name] = read(path)
        except ConfigError as error:
            problems.append(str(error))
    return templates, problems


def _places(profile: Profile, kubernetes: Kubernetes, templates: dict[str, Manifest], at: At) -> Iterator[str]:
    """Folders of the profile that pods have not, or have each for itself."""
    training = {kubernetes.template_of(stage) for stage in _TRAINING}
    shared: list[tuple[tuple[str, ...], str, set[str]]] = [(("store",), profile.store, set(templates))]
    if profile.checkpoints is not None:
        shared.append((("checkpoints", "path"), profile.checkpoints.path, training & templates.keys()))
    for field, place, names in shared:
        lacking = sorted(name for name in names if not _is_mounted(place, templates[name]))
        if lacking and not place.startswith("s3://"):
            yield at(
                f"{place} is a folder, and pods have none in common; write s3://bucket/prefix, or mount a volume there in the pod templates {', '.join(lacking)}",
                *field,
            )
    if profile.scratch is not None and not _is_below(profile.scratch, WRITABLE):
        lacking = sorted(name for name in training & templates.keys() if not _is_mounted(profile.scratch, templates[name]))
        if lacking:
            yield at(
                f"pods may write below {', '.join(WRITABLE)} alone; name a folder there, or mount a volume at {profile.scratch} in the pod templates {', '.join(lacking)}",
                "scratch",
            )


def _tracking(profile: Profile, at: At) -> Iterator[str]:
    uri, server = profile.tracking_uri, urlsplit(profile.tracking_uri)
    if server.scheme in ("", "file", "sqlite"):
        yield at(
            f"{uri} is a file, and pods have none in common; run an MLflow server that they reach, and write its address (http://…)",
            "tracking_uri",
        )
    elif server.scheme in ("http", "https") and _is_loopback(server.hostname or ""):
        yield at(
            f"to a pod {uri} is that very pod; write the address under which pods reach the MLflow server, such as http://mlflow.sluice.svc:5000",
            "tracking_uri",
        )


def _service(project: Project, profile: Profile, templates: dict[str, Manifest], at: At) -> Iterator[str]:
    """What the service of a model would lack."""
    assert profile.kubernetes is not None, "who calls this has looked"
    if (name := profile.kubernetes.templates.serving) in templates:
        try:
            deployment("check", profile.store, profile, project.pod_template(name), candidate=False, replicas=None)
        except ConfigError as error:
            yield at(str(error).removeprefix(f"profile {profile.name}: "), "kubernetes")


def _is_mounted(folder: str, template: Manifest) -> bool:
    """Whether the stage's container of `template` has a volume that holds `folder`."""
    containers = [container for container in template["spec"]["containers"] if container["name"] == CONTAINER]
    return _is_below(folder, [mount["mountPath"] for container in containers for mount in container.get("volumeMounts") or ()])


def _is_below(folder: str, others: Iterable[str]) -> bool:
    return any(PurePosixPath(folder).is_relative_to(other) for other in others)


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
