"""Where a profile with `launcher: kubernetes` runs its stages: `kubernetes:` of the profile."""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from pipelines_lib.contracts import EXTRA_STAGES, STAGES
from pipelines_lib.use_case.base import ConnectionName, Duration, Settings
from pipelines_lib.use_case.rules import FieldErrors

_SUFFIXES = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_LEAST_CPU, _LEAST_BYTES = 1e-3, 2.0**20
_IMAGE = re.compile(
    r"(?:[a-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?", re.ASCII
)


def amount(quantity: str) -> float:
    """What a Kubernetes quantity such as `500m` or `4Gi` comes to."""
    number = quantity.rstrip("mkMGTi")
    return float(number) * _SUFFIXES[quantity[len(number) :]]


def _text(value: object) -> str:
    """A number of the YAML as the text that it stands for; anything else that is no text as an empty one."""
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    return text if isinstance(text, str) else ""


def _cpus(value: object) -> str:
    text = _text(value)
    if re.fullmatch(r"\d+(\.\d+)?m?", text) and amount(text) >= _LEAST_CPU:
        return text
    raise ValueError(f"{value!r} is no number of CPUs; write such as 2, 0.5 or 500m")


def _bytes(value: object) -> str:
    text = _text(value)
    # Kubernetes would take 512m, and read half a byte.
    if re.fullmatch(r"\d+(\.\d+)?(k|M|G|T|Ki|Mi|Gi|Ti)?", text) and amount(text) >= _LEAST_BYTES:
        return text
    raise ValueError(f"{value!r} is no size of memory or disk (at least 1Mi); write a number with its unit, such as 512Mi or 4Gi")


def _pinned(image: str) -> str:
    """`image`, where it names the same code tomorrow as today."""
    parts = _IMAGE.fullmatch(image)
    if parts is None:
        raise ValueError(f"{image!r} is not the name of an image; write registry/name:tag or registry/name@sha256:…")
    if parts["digest"] is None and parts["tag"] in (None, "latest"):
        raise ValueError(
            f"{image!r} may be another image tomorrow, and a run could not be repeated; give it a digest (name@sha256:…) or a tag other than latest"
        )
    return image


Cpus = Annotated[str, BeforeValidator(_cpus)]
Bytes = Annotated[str, BeforeValidator(_bytes)]
Image = Annotated[str, AfterValidator(_pinned)]
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""The name of an object of the cluster: at most 63 lower-case letters, digits and hyphens."""
TemplateName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]


SERVING = "serving"
"""What `resources` calls the pods of the model service, beside the stages."""
DEPLOYING = frozenset({"deploy", "verify"})
"""The stages that bring up the model service on the cluster."""


class Images(Settings):
    """What pods run. Each has a digest, or a tag other than `latest`; the environment variable SLUICE_IMAGE takes the place of them all."""

    cpu: Image
    """Of the stages without a GPU."""
    cuda: Image | None = None
    """Of the stages with one."""
    serving: Image | None = None
    """Of the model service."""


class Resources(Settings):
    """What a pod reserves. Of memory, disk and GPUs it gets no more; of CPU it may use what others leave."""

    cpu: Cpus = "1"
    memory: Bytes = "4Gi"
    gpu: int = Field(default=0, ge=0, le=64)
    """Whole GPUs, asked for as nvidia.com/gpu."""
    ephemeral_storage: Bytes = "10Gi"
    """Disk of the node: temporary files and the log."""
    shm: Bytes = "1Gi"
    """Size of /dev/shm, through which the processes of a training talk; what lies there counts as memory."""


class Templates(Settings):
    """Names of the files in include/pod_templates, without .yaml: what else a pod needs on this cluster."""

    cpu: TemplateName = "cpu"
    """Of the stages without a GPU."""
    gpu: TemplateName = "gpu"
    """Of the stages with one."""
    serving: TemplateName = "serving"
    """Of the model service."""


class Replicas(Settings):
    """How many servers a use case's users have."""

    least: int = Field(default=2, ge=1, le=1000)
    """At any time; where the cluster has no autoscaler, always."""
    most: int = Field(default=10, ge=1, le=1000)
    """Under load."""
    cpu_percent: int = Field(default=70, ge=1, le=1000)
    """Of the CPU that a server reserves: used more on the average, there are more of them."""

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most}); lower one or raise the other")
        return self


class Kubernetes(Settings):
    """The cluster, and what pods look like there."""

    connection: ConnectionName | None = None
    """Airflow's connection (type Kubernetes) to the cluster; without one Airflow itself runs in it."""
    namespace: ObjectName
    """Where the pods are made."""
    images: Images
    service_account: ObjectName = "default"
    """Of the pods, for a cloud's workload identity; no token of the cluster's own is mounted."""
    deployer: ObjectName = "sluice-deployer"
    """The service account of the stages deploy and verify, which bring up the model service; their pods alone get its token."""
    resources: dict[str, Resources] = Field(default={"default": Resources()})
    """Stage, or `serving` for the model service, to what it reserves. What a stage leaves out, and a stage that is not named, takes from `default`."""
    templates: Templates = Templates()
    replicas: Replicas = Replicas()
    serving: Literal["deployment", "kserve"] = "deployment"
    """What brings up the users' servers: a Deployment with an autoscaler, or, where KServe is installed, its InferenceService."""
    queue: ObjectName | None = None
    """Kueue's LocalQueue that admits the pods; without one they go to the scheduler at once."""
    startup_timeout: Duration = timedelta(minutes=15)
    """How long a pod may wait for a node, its image and its volumes. Time in `queue` does not count."""
    join_timeout: Duration = timedelta(minutes=10)
    """How long a machine of a training on several waits for the others, at the start and after one was lost, before it steps back and is tried again."""
    grace: Duration = timedelta(seconds=60)
    """How long a pod that is to end may take for it: long enough to write a checkpoint."""
    secrets: list[ObjectName] = Field(default_factory=list)
    """Secrets of the namespace whose keys every pod gets as environment variables, such as the MLflow server's password."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        stages = sorted({stage for known in (STAGES, EXTRA_STAGES) for each in known.values() for stage in each})
        problems: list[tuple[tuple[str, ...], str]] = []
        if "default" not in self.resources:
            problems.append((("resources",), "there is no `default`, which stages that are not named take; add one"))
        for stage in self.resources if not problems else ():
            if stage not in ("default", SERVING, *stages):
                problems.append((("resources", stage), f"there is no stage {stage!r}; there are default, {SERVING}, {', '.join(stages)}"))
                continue
            reserved = self.of(stage)
            if stage == SERVING and reserved.gpu:
                problems.append((("resources", stage), "asks for a GPU, and models are served on CPUs; remove `gpu`, or set it to 0"))
            elif reserved.gpu and self.images.cuda is None:
                problems.append((("resources", stage), "asks for a GPU, and images.cuda is missing; name an image with CUDA there"))
            if amount(reserved.shm) > amount(reserved.memory):
                why = f"shm ({reserved.shm}) counts as memory, and memory is {reserved.memory}; give it more memory, or a smaller shm"
                problems.append((("resources", stage), why))
        if problems:
            raise FieldErrors([(("kubernetes", *field), message) for field, message in problems])
        return self

    def of(self, stage: str) -> Resources:
        """What `stage` reserves."""
        default, own = self.resources["default"], self.resources.get(stage)
        return default if own is None else default.model_copy(update=own.model_dump(exclude_unset=True))

    def account_of(self, stage: str) -> str:
        """The service account of the pods of `stage`."""
        return self.deployer if stage in DEPLOYING else self.service_account

    def image_of(self, stage: str) -> str:
        """What the pods of `stage` run."""
        return self.images.cuda if self.of(stage).gpu and self.images.cuda is not None else self.images.cpu

    def template_of(self, stage: str) -> str:
        """The name of the template of the pods of `stage`."""
        return self.templates.gpu if self.of(stage).gpu else self.templates.cpu
