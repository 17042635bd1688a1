"""The settings of a cluster: what they refuse, with file, line, field, rule and remedy, and what a stage takes from where."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.cluster import Kubernetes, Resources, amount
from pipelines_lib.config import Profile, Project, load
from pipelines_lib.errors import ConfigError

PROFILE = """\
name: pods
launcher: kubernetes
store: s3://bucket/prefix
tracking_uri: http://mlflow:5000
kubernetes:
  namespace: sluice
  images: {cpu: "example.org/job:1"}
"""
PINNED = "may be another image tomorrow, and a run could not be repeated; give it a digest (name@sha256:…) or a tag other than latest"
NO_IMAGE = "is not the name of an image; write registry/name:tag or registry/name@sha256:…"
NO_TIME = "is not a length of time; write a whole number and its unit (s, min, h, d), such as 10min or 7d"
NO_SIZE = "is no size of memory or disk (at least 1Mi); write a number with its unit, such as 512Mi or 4Gi"
NO_CPUS = "is no number of CPUs; write such as 2, 0.5 or 500m"
KNOWN_STAGES = "default, serving, approved, decide, deploy, evaluate, gate, ingest, measure, prepare, profile, register, relabel, release, report, score, snapshot, train, tune, validate, verify"


def settings(folder: Path, text: str) -> Kubernetes:
    path = folder / "pods.yaml"
    path.write_text(text, encoding="utf-8")
    found = load(path, Profile).kubernetes
    assert found is not None
    return found


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong, the file's name cut off."""
    with pytest.raises(ConfigError) as raised:
        settings(folder, text)
    return [line.removeprefix(f"{folder}/pods.yaml:") for line in str(raised.value).splitlines()]


IMAGES: list[tuple[str, str | None]] = [
    ("example.org/job:1", None),
    ("job:1.2.3-rc.1", None),
    ("localhost:5000/team/job:1", None),
    ("example.org/job@sha256:" + "0" * 64, None),
    ("example.org/job:latest@sha256:" + "0" * 64, None),
    ("example.org/job", PINNED),
    ("example.org:5000/job", PINNED),
    ("example.org/job:latest", PINNED),
    ("example.org/job@sha256:abc", NO_IMAGE),
    ("Example Job:1", NO_IMAGE),
    ("job:1; rm -rf /", NO_IMAGE),
    ("https://example.org/job:1", NO_IMAGE),
]


@pytest.mark.parametrize(("image", "why"), IMAGES, ids=[image[:30] for image, _ in IMAGES])
@pytest.mark.parametrize("role", ["cpu", "cuda", "serving"])
def test_an_image_is_pinned(tmp_path: Path, image: str, why: str | None, role: str) -> None:
    text = PROFILE.replace("{cpu:", f'{{{role}: "{image}", cpu:') if role != "cpu" else PROFILE.replace("example.org/job:1", image)
    if why is None:
        assert getattr(settings(tmp_path, text).images, role) == image
    else:
        assert problems(tmp_path, text) == [f"7: kubernetes.images.{role}: {image!r} {why}"]


REFUSED: dict[str, tuple[str, list[str]]] = {
    "no namespace": (PROFILE.replace("  namespace: sluice\n", ""), ["5: kubernetes.namespace: required, and missing; add it"]),
    "no image": (PROFILE.replace('cpu: "example.org/job:1"', ""), ["7: kubernetes.images.cpu: required, and missing; add it"]),
    "a key of another spelling": (
        PROFILE + "  name_space: x\n",
        [
            (
                "8: kubernetes.name_space: unknown key; known here are: connection, namespace, images, service_account, deployer, resources, templates, "
                "replicas, serving, queue, startup_timeout, join_timeout, grace, secrets. Fix the spelling or remove it"
            )
        ],
    ),
    "a limit of another spelling": (
        PROFILE + "  resources: {default: {mem: 1Gi}}\n",
        [
            "8: kubernetes.resources.default.mem: unknown key; known here are: cpu, memory, gpu, ephemeral_storage, shm. Fix the spelling or remove it"
        ],
    ),
    "CPUs in bytes": (PROFILE + "  resources: {default: {cpu: 4Gi}}\n", [f"8: kubernetes.resources.default.cpu: '4Gi' {NO_CPUS}"]),
    "no CPU": (PROFILE + "  resources: {default: {cpu: 0}}\n", [f"8: kubernetes.resources.default.cpu: 0 {NO_CPUS}"]),
    "less CPU than nothing": (PROFILE + "  resources: {default: {cpu: -1}}\n", [f"8: kubernetes.resources.default.cpu: -1 {NO_CPUS}"]),
    "less CPU than is counted": (
        PROFILE + "  resources: {default: {cpu: 0.1m}}\n",
        [f"8: kubernetes.resources.default.cpu: '0.1m' {NO_CPUS}"],
    ),
    "half a byte of memory": (
        PROFILE + "  resources: {default: {memory: 512m}}\n",
        [f"8: kubernetes.resources.default.memory: '512m' {NO_SIZE}"],
    ),
    "four bytes of memory": (PROFILE + "  resources: {default: {memory: 4}}\n", [f"8: kubernetes.resources.default.memory: 4 {NO_SIZE}"]),
    "memory in a unit of people": (
        PROFILE + "  resources: {default: {memory: 4GB}}\n",
        [f"8: kubernetes.resources.default.memory: '4GB' {NO_SIZE}"],
    ),
    "disk without a unit": (
        PROFILE + "  resources: {default: {ephemeral_storage: yes}}\n",
        [f"8: kubernetes.resources.default.ephemeral_storage: True {NO_SIZE}"],
    ),
    "half a GPU": (
        PROFILE + "  resources: {default: {gpu: 0.5}}\n",
        [
            "8: kubernetes.resources.default.gpu: Input should be a valid integer, got a number with a fractional part (found 0.5); change the value"
        ],
    ),
    "a GPU without its image": (
        PROFILE + "  resources: {default: {}, train: {gpu: 1}}\n",
        ["8: kubernetes.resources.train: asks for a GPU, and images.cuda is missing; name an image with CUDA there"],
    ),
    "a GPU for the service": (
        PROFILE + "  resources: {default: {}, serving: {gpu: 1}}\n",
        ["8: kubernetes.resources.serving: asks for a GPU, and models are served on CPUs; remove `gpu`, or set it to 0"],
    ),
    "a GPU for all, and so for the service": (
        PROFILE.replace("{cpu:", '{cuda: "c:1", cpu:') + "  resources: {default: {gpu: 1}, serving: {cpu: 1}}\n",
        ["8: kubernetes.resources.serving: asks for a GPU, and models are served on CPUs; remove `gpu`, or set it to 0"],
    ),
    "more shared memory than memory": (
        PROFILE + "  resources: {default: {memory: 1Gi}, train: {shm: 1100Mi}}\n",
        ["8: kubernetes.resources.train: shm (1100Mi) counts as memory, and memory is 1Gi; give it more memory, or a smaller shm"],
    ),
    "no default": (
        PROFILE + "  resources: {train: {cpu: 2}}\n",
        ["8: kubernetes.resources: there is no `default`, which stages that are not named take; add one"],
    ),
    "no such stage": (
        PROFILE + "  resources:\n    default: {}\n    training: {cpu: 2}\n",
        [f"10: kubernetes.resources.training: there is no stage 'training'; there are {KNOWN_STAGES}"],
    ),
    "a template by its path": (
        PROFILE + "  templates: {gpu: ../gpu.yaml}\n",
        ["8: kubernetes.templates.gpu: String should match pattern '^[a-z0-9_-]+$' (found '../gpu.yaml'); change the value"],
    ),
    "fewer at most than at least": (
        PROFILE + "  replicas: {least: 3, most: 2}\n",
        ["8: kubernetes.replicas: least (3) is above most (2); lower one or raise the other"],
    ),
    "no server": (
        PROFILE + "  replicas: {least: 0}\n",
        ["8: kubernetes.replicas.least: Input should be greater than or equal to 1 (found 0); change the value"],
    ),
    "a time without its unit": (PROFILE + "  startup_timeout: 60\n", [f"8: kubernetes.startup_timeout: 60 {NO_TIME}"]),
    "no time": (PROFILE + "  grace: 0s\n", [f"8: kubernetes.grace: '0s' {NO_TIME}"]),
    "a Secret's value in place of its name": (
        PROFILE + '  secrets: ["MLFLOW_PASSWORD=x"]\n',
        [
            "8: kubernetes.secrets.0: String should match pattern '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' (found 'MLFLOW_PASSWORD=x'); change the value"
        ],
    ),
    "a password in place of a connection": (
        PROFILE + '  connection: "https://admin:pw@cluster"\n',
        [
            "8: kubernetes.connection: String should match pattern '^[a-z][a-z0-9_]{0,62}$' (found 'https://admin:pw@cluster'); change the value"
        ],
    ),
    "several at once": (
        PROFILE + "  resources:\n    default: {memory: 1Gi, shm: 2Gi}\n    train: {gpu: 1, memory: 4Gi}\n",
        [
            "9: kubernetes.resources.default: shm (2Gi) counts as memory, and memory is 1Gi; give it more memory, or a smaller shm",
            "10: kubernetes.resources.train: asks for a GPU, and images.cuda is missing; name an image with CUDA there",
        ],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_told_with_its_line_and_the_remedy(tmp_path: Path, case: str) -> None:
    text, expected = REFUSED[case]
    assert problems(tmp_path, text) == expected


@pytest.mark.parametrize("name", ["Sluice", "sluice_jobs", "-sluice", "sluice-", "a.b", "a" * 64, "", "x y"])
@pytest.mark.parametrize("field", ["namespace", "service_account", "deployer", "queue"])
def test_the_name_of_an_object_is_a_label_of_dns(tmp_path: Path, field: str, name: str) -> None:
    text = PROFILE.replace("namespace: sluice", f'namespace: "{name}"') if field == "namespace" else PROFILE + f'  {field}: "{name}"\n'
    [said] = problems(tmp_path, text)
    assert said.startswith(f"{6 if field == 'namespace' else 8}: kubernetes.{field}: String should match pattern")


def test_a_launcher_without_its_settings_says_which(tmp_path: Path) -> None:
    assert problems(tmp_path, PROFILE[: PROFILE.index("kubernetes:\n")]) == [
        "2: launcher: `kubernetes` needs the settings of a cluster; write `kubernetes:` with namespace and images, as include/profiles/cluster.yaml does"
    ]


def test_a_stage_takes_from_default_what_it_leaves_out(tmp_path: Path) -> None:
    text = PROFILE.replace("{cpu:", '{cuda: "example.org/cuda:1", cpu:') + (
        "  service_account: jobs\n  templates: {cpu: small, gpu: large}\n"
        "  resources:\n    default: {cpu: 500m, memory: 2Gi}\n    train: {gpu: 2, memory: 8Gi}\n    tune: {}\n"
    )
    found = settings(tmp_path, text)
    assert found.of("ingest") == found.of("tune") == Resources(cpu="500m", memory="2Gi")
    assert found.of("train") == Resources(cpu="500m", memory="8Gi", gpu=2)
    assert [found.image_of(stage) for stage in ("ingest", "train")] == ["example.org/job:1", "example.org/cuda:1"]
    assert [found.template_of(stage) for stage in ("ingest", "train")] == ["small", "large"]
    accounts = {stage: found.account_of(stage) for stage in ("ingest", "train", "deploy", "verify")}
    assert accounts == {"ingest": "jobs", "train": "jobs", "deploy": "sluice-deployer", "verify": "sluice-deployer"}


def test_the_environment_may_take_the_place_of_the_images_and_of_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = tmp_path / "include" / "profiles"
    profiles.mkdir(parents=True)
    before = settings(profiles, PROFILE)
    project = Project(tmp_path, tmp_path / "home", tmp_path / "cases", "pods")
    monkeypatch.setenv("SLUICE_IMAGE", "registry/all:2")
    after = project.profile().kubernetes
    assert after is not None
    assert set(after.images.model_dump().values()) == {"registry/all:2"}
    assert after.model_copy(update={"images": before.images}) == before
    monkeypatch.setenv("SLUICE_IMAGE", "registry/all:latest")
    with pytest.raises(ConfigError, match=r"SLUICE_IMAGE: 'registry/all:latest' may be another image tomorrow"):
        project.profile()


@pytest.mark.parametrize(
    ("quantity", "comes_to"), [("2", 2), ("0.5", 0.5), ("500m", 0.5), ("4Gi", 2**32), ("4G", 4e9), ("1.5Mi", 1.5 * 2**20), ("1k", 1000)]
)
def test_what_a_quantity_comes_to(quantity: str, comes_to: float) -> None:
    assert amount(quantity) == comes_to


@given(
    st.one_of(st.text(max_size=20), st.from_regex(r"[0-9.]{1,6}[kmMGTi]{0,3}", fullmatch=True), st.integers(), st.floats(), st.booleans())
)
def test_what_is_taken_as_a_quantity_is_one_of_kubernetes(value: object) -> None:
    for field, least in (("cpu", 1e-3), ("memory", 2**20)):
        try:
            taken = getattr(Resources.model_validate({field: value, "shm": "1Mi"}), field)
        except ValueError:
            continue
        # The API's own pattern of a quantity (apimachinery, resource.Quantity).
        assert re.fullmatch(r"(?:[0-9]+(?:\.[0-9]*)?)(?:[KMGTPE]i|[mkMGTPE]|)", taken, re.ASCII)
        assert amount(taken) >= least
