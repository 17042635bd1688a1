"""What `sluice check` says of a profile whose stages are pods, and of use cases that would not work there."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines_lib.check_cluster import check_profile, use_case_problems
from pipelines_lib.cli import app
from pipelines_lib.config import Project
from tests.unit.conftest import USE_CASE

INCLUDE = Path(__file__).parents[2] / "include"
PROFILE = """\
name: pods
launcher: kubernetes
store: s3://bucket/prefix
tracking_uri: http://mlflow.sluice.svc:5000
kubernetes:
  namespace: sluice
  images: {cpu: "example.org/job:1", serving: "example.org/serving:1"}
"""
MOUNT = "spec:\n  containers:\n    - {name: base, volumeMounts: [{name: data, mountPath: /data}]}\n  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]\n"


@pytest.fixture
def project(tmp_path: Path, cases: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("SLUICE_IMAGE", raising=False)
    shutil.copytree(INCLUDE / "pod_templates", tmp_path / "include" / "pod_templates")
    (tmp_path / "include" / "profiles").mkdir()
    return Project(tmp_path, tmp_path / "home", cases, "pods")


def told(message: str, *field: str | int) -> str:
    return f"{'.'.join(map(str, field))}: {message}"


def write(project: Project, profile: str, **templates: str) -> None:
    (project.folder / "include" / "profiles" / "pods.yaml").write_text(profile, encoding="utf-8")
    for name, text in templates.items():
        (project.folder / "include" / "pod_templates" / f"{name}.yaml").write_text(f"apiVersion: v1\nkind: Pod\n{text}", encoding="utf-8")


def problems(project: Project, profile: str, **templates: str) -> list[str]:
    """What is wrong, the folder's name cut off."""
    write(project, profile, **templates)
    return [problem.removeprefix(f"{project.folder}/include/") for problem in check_profile(project) or []]


NO_FOLDER = "is a folder, and pods have none in common; write s3://bucket/prefix, or mount a volume there in the pod templates"
PROBLEMS: dict[str, tuple[str, list[str]]] = {
    "right": (PROFILE, []),
    "an image that may change": (
        PROFILE.replace("job:1", "job:latest"),
        [
            (
                "profiles/pods.yaml:7: kubernetes.images.cpu: 'example.org/job:latest' may be another image tomorrow, and a run could not be repeated; "
                "give it a digest (name@sha256:…) or a tag other than latest"
            )
        ],
    ),
    "no namespace's name": (
        PROFILE.replace("namespace: sluice", "namespace: Sluice"),
        [
            (
                "profiles/pods.yaml:6: kubernetes.namespace: String should match pattern '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' (found 'Sluice'); "
                "change the value"
            )
        ],
    ),
    "a template that is not there": (
        PROFILE + "  templates: {cpu: small}\n",
        [
            (
                "profiles/pods.yaml:8: kubernetes.templates.cpu: pod template 'small': there is no FOLDER/include/pod_templates/small.yaml; "
                "there are ['cpu', 'gpu', 'serving']. Write it, or name one of these under kubernetes.templates of the profile"
            )
        ],
    ),
    "the template of a GPU that nobody asks for": (PROFILE + "  templates: {gpu: large}\n", []),
    "a store in a folder": (
        PROFILE.replace("s3://bucket/prefix", "/data/store"),
        [f"profiles/pods.yaml:3: store: /data/store {NO_FOLDER} cpu, serving"],
    ),
    "a store in the state folder": (
        PROFILE.replace("s3://bucket/prefix", '"{home}/store"'),
        [f"profiles/pods.yaml:3: store: FOLDER/home/store {NO_FOLDER} cpu, serving"],
    ),
    "checkpoints in a folder": (
        PROFILE + "checkpoints: {path: /data/checkpoints}\n",
        [f"profiles/pods.yaml:8: checkpoints.path: /data/checkpoints {NO_FOLDER} cpu"],
    ),
    "arrays where a pod may not write": (
        PROFILE + "scratch: /fast\n",
        [
            (
                "profiles/pods.yaml:8: scratch: pods may write below /tmp, /home/sluice, /dev/shm alone; name a folder there, or mount a volume at /fast "
                "in the pod templates cpu"
            )
        ],
    ),
    "arrays where a pod may write": (PROFILE + "scratch: /tmp/arrays\n", []),
    "MLflow in a file": (
        PROFILE.replace("http://mlflow.sluice.svc:5000", '"sqlite:///{home}/mlflow.db"'),
        [
            (
                "profiles/pods.yaml:4: tracking_uri: sqlite:///FOLDER/home/mlflow.db is a file, and pods have none in common; run an MLflow server that they "
                "reach, and write its address (http://…)"
            )
        ],
    ),
    "no image of the service": (
        PROFILE.replace(', serving: "example.org/serving:1"', ""),
        ["profiles/pods.yaml:5: kubernetes: kubernetes.images.serving is missing; name the image of the model service there"],
    ),
    "a store whose key the service would not have": (
        PROFILE + "store_connection: store\n",
        [
            (
                "profiles/pods.yaml:5: kubernetes: the servers need connection 'store' (store_connection), and outlive the task that has it; put it into a Secret of namespace "
                "sluice as SLUICE_CONN_STORE, and name that under kubernetes.secrets"
            )
        ],
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_profile_is_looked_at_without_a_cluster(project: Project, case: str) -> None:
    profile, expected = PROBLEMS[case]
    assert problems(project, profile) == [line.replace("FOLDER", str(project.folder)) for line in expected]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "mlflow.localhost", "[::1]", "0.0.0.0"])
def test_a_server_on_this_machine_is_none_of_a_pods(project: Project, host: str) -> None:
    [said] = problems(project, PROFILE.replace("mlflow.sluice.svc", host))
    assert said == (
        f"profiles/pods.yaml:4: tracking_uri: to a pod http://{host}:5000 is that very pod; write the address under which pods reach the MLflow server, "
        "such as http://mlflow.sluice.svc:5000"
    )


def test_a_folder_on_a_volume_is_reached(project: Project) -> None:
    profile = PROFILE.replace("s3://bucket/prefix", "/data/store") + "scratch: /data/scratch\ncheckpoints: {path: /data/checkpoints}\n"
    assert problems(project, profile, cpu=MOUNT, serving=MOUNT) == []
    assert problems(project, profile.replace("/data/store", "/database"), cpu=MOUNT, serving=MOUNT) == [
        f"profiles/pods.yaml:3: store: /database {NO_FOLDER} cpu, serving"
    ]


def test_every_mistake_of_a_template_and_of_the_profile_is_told_at_once(project: Project) -> None:
    profile = PROFILE.replace("mlflow.sluice.svc", "localhost") + "  templates: {serving: none}\n"
    template, missing, tracking = problems(project, profile, cpu="spec:\n  containers: [{name: base}]\n  nodeSelector: {pool: 1}\n")
    assert template == "pod_templates/cpu.yaml:5: spec.nodeSelector.pool: text is expected, not 1; put it in quotes"
    assert missing.startswith("profiles/pods.yaml:8: kubernetes.templates.serving: pod template 'none'")
    assert tracking.startswith("profiles/pods.yaml:4: tracking_uri: ")


@pytest.mark.parametrize("name", ["cluster", "kind"])
def test_what_is_shipped_is_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLUICE_IMAGE", raising=False)
    project = Project(INCLUDE.parent, tmp_path / "home", INCLUDE / "use_cases", name)
    assert check_profile(project) == []
    assert [problem for name in project.use_case_names() for problem in use_case_problems(project, project.use_case(name), told)] == []


def test_a_profile_of_processes_is_not_looked_at(project: Project) -> None:
    write(project, 'name: pods\nstore: "{home}/store"\ntracking_uri: "sqlite:///{home}/mlflow.db"\n')
    assert check_profile(project) is None
    write(project, "name: pods\n")
    assert [line.partition(": ")[2] for line in check_profile(project) or []] == [
        "store: required, and missing; add it",
        "tracking_uri: required, and missing; add it",
    ]


TUNED = USE_CASE + "tuning: {trials: 2, space: {learning_rate: {low: 0.001, high: 0.1, log: true}}}\n"


@pytest.mark.parametrize(
    ("settings", "profile", "expected"),
    [
        (
            USE_CASE,
            PROFILE,
            [
                (
                    "source.path: {home}/{partition}.csv is on no disk of a pod; write s3://bucket/…, let `land` fetch the file, or mount a volume there in the "
                    "pod template cpu"
                )
            ],
        ),
        (USE_CASE.replace("{home}", "s3://bucket/in"), PROFILE, []),
        (USE_CASE.replace("{home}", "/data/in"), PROFILE, []),
        (USE_CASE.replace("{home}", "in"), PROFILE, []),
        (
            TUNED.replace("{home}", "s3://bucket/in"),
            PROFILE,
            [
                (
                    "tuning: trials are pods, each of which would have a SQLite file of its own; name a connection to a database as tuning_connection of "
                    "profile pods"
                )
            ],
        ),
        (TUNED.replace("{home}", "s3://bucket/in"), PROFILE + "tuning_connection: tuning_db\n", []),
        (
            USE_CASE.replace("{home}", "s3://bucket/in") + "deployment: {token: {connection: shop_token}}\n",
            PROFILE,
            [
                (
                    "deployment.token: the servers outlive the task that has connection 'shop_token'; put it into a Secret of namespace sluice as "
                    "SLUICE_CONN_SHOP_TOKEN, and name that under kubernetes.secrets of profile pods"
                )
            ],
        ),
        (
            USE_CASE.replace("{home}", "s3://bucket/in") + "deployment: {token: {connection: shop_token}}\n",
            PROFILE + "  secrets: [shop]\n",
            [],
        ),
    ],
    ids=["the state folder", "a bucket", "a volume", "the image", "tuning", "tuning with a database", "a token", "a token in a Secret"],
)
def test_a_use_case_that_needs_one_machine_is_told(project: Project, settings: str, profile: str, expected: list[str]) -> None:
    write(project, profile, cpu=MOUNT)
    (project.use_cases / "shop" / "use_case.yaml").write_text(settings, encoding="utf-8")
    assert list(use_case_problems(project, project.use_case("shop"), told)) == expected


def test_the_command_says_what_is_wrong_with_the_profile_first(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PROJECT", project.folder), ("HOME", project.home), ("USE_CASES", project.folder / "none"), ("PROFILE", "pods")):
        monkeypatch.setenv(f"SLUICE_{name}", str(value))
    write(project, PROFILE)
    right = CliRunner().invoke(app, ["check"])
    assert (right.exit_code, right.output) == (0, "✓ profile pods\n")
    write(project, PROFILE.replace("job:1", "job"))
    wrong = CliRunner().invoke(app, ["check"])
    assert wrong.exit_code == 2
    first, second = wrong.output.splitlines()
    assert first == "✗ profile pods"
    assert "kubernetes.images.cpu: 'example.org/job' may be another image tomorrow" in second
