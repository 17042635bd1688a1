"""A template says what pods need on a cluster: what it may add, what it may not take, and how a mistake is told."""

from pathlib import Path

import pytest
import yaml

from pipelines_lib.config import Project
from pipelines_lib.errors import ConfigError
from pipelines_lib.pods.template import from_template, read

HEAD = "apiVersion: v1\nkind: Pod\n"
SPEC = HEAD + "spec:\n  containers:\n    - name: base\n"
NOT_A_POD = "not a pod; write a manifest with `apiVersion: v1`, `kind: Pod` and `spec:`"
MISTAKES: dict[str, tuple[str, str]] = {
    "nothing": ("", "1: expected settings as `key: value` lines, found nothing"),
    "a list": ("- a\n", "1: expected settings as `key: value` lines, found something else"),
    "a tab": ("kind: Pod\n\tspec: x\n", "2: not valid YAML: found a tab character that violates indentation; check indentation, colons and quotes near this line"),
    "two documents": (SPEC + "---\nkind: Pod\n", "6: not valid YAML: but found another document; check indentation, colons and quotes near this line"),
    "a key twice": (SPEC + "  nodeSelector: {a: b}\n  nodeSelector: {c: d}\n", "7: key 'nodeSelector' is written twice; remove one"),
    "another kind": ("kind: Deployment\nspec: {}\n", NOT_A_POD),
    "another version": (SPEC.replace("v1", "v2"), NOT_A_POD),
    "no spec": (HEAD + "spec:\n", NOT_A_POD),
    "no containers": (HEAD + "spec: {nodeSelector: {a: b}}\n", "3: spec: `containers` is missing; add it"),
    "an empty entry of a list": (HEAD + "spec:\n  containers:\n    -\n", "5: spec.containers[0]: nothing stands here; write it, or remove the hyphen"),
    "a container without its name": (HEAD + "spec:\n  containers:\n    - imagePullPolicy: Always\n", "5: spec.containers[0]: `name` is missing; add it"),
    "another container without its image": (
        SPEC + "    - name: logs\n",
        "6: spec.containers[1]: a container beside the stage's own needs an `image`; name one, or call it base, which is the stage's",
    ),
    "arguments of the stage": (
        SPEC + "      args: [--spec, other.json]\n",
        "6: spec.containers[0].args: they would be added to the command, which is Sluice's; remove them",
    ),
    "the superuser": (
        SPEC + "      securityContext:\n        runAsNonRoot: false\n",
        "7: spec.containers[0].securityContext.runAsNonRoot: Sluice sets it for the whole pod, and this would take its place; remove it",
    ),
    "a field of another spelling": (
        SPEC + "      imagePullPolcy: Always\n",
        "6: spec.containers[0].imagePullPolcy: a pod has no such field (did you mean imagePullPolicy?); correct it or remove it",
    ),
    "a field of another kind": (SPEC + "  replicas: 2\n", "6: spec.replicas: a pod has no such field; correct it or remove it"),
    "half of a name": (
        SPEC + "  affinity:\n    nodeAffinity:\n      requiredDuringScheduling: {}\n",
        ("8: spec.affinity.nodeAffinity.requiredDuringScheduling: a pod has no such field (did you mean requiredDuringSchedulingIgnoredDuringExecution?); "
        "correct it or remove it"),
    ),
    "a number where text is": (SPEC + "  nodeSelector: {generation: 7}\n", "6: spec.nodeSelector.generation: text is expected, not 7; put it in quotes"),
    "true where text is": (SPEC + "  nodeSelector: {gpu: yes}\n", "6: spec.nodeSelector.gpu: text is expected, not True; put it in quotes"),
    "a number as a name": (
        HEAD + "metadata: {annotations: {1: a}}\nspec: {containers: [{name: base}]}\n",
        "3: metadata.annotations[1]: text is expected, not 1; put it in quotes",
    ),
    "a date where text is": (
        HEAD + "metadata:\n  annotations: {since: 2026-01-01}\nspec: {containers: [{name: base}]}\n",
        "4: metadata.annotations.since: text is expected, not datetime.date(2026, 1, 1); put it in quotes",
    ),
    "a value of the environment that is a number": (
        SPEC + "      env:\n        - {name: THREADS, value: 2}\n",
        "7: spec.containers[0].env[0].value: text is expected, not 2; put it in quotes",
    ),
    "text where true or false is": (SPEC + "  hostNetwork: 'no'\n", "6: spec.hostNetwork: true or false is expected, not 'no'; correct it"),
    "text where a number is": (SPEC + "  priority: high\n", "6: spec.priority: a whole number is expected, not 'high'; correct it"),
    "true where a number is": (SPEC + "  priority: true\n", "6: spec.priority: a whole number is expected, not True; correct it"),
    "a mapping where a list is": (SPEC + "  tolerations: {key: gpu}\n", "6: spec.tolerations: a list is expected, not {'key': 'gpu'}; correct it"),
    "a list where a mapping is": (SPEC + "  nodeSelector: [a]\n", "6: spec.nodeSelector: a mapping is expected, not ['a']; correct it"),
    "text where a mapping is": (SPEC + "  affinity: gpu\n", "6: spec.affinity: a mapping is expected, not 'gpu'; correct it"),
}  # fmt: skip


def template(folder: Path, text: str) -> Path:
    path = folder / "cpu.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_with_its_line_its_field_and_the_remedy(tmp_path: Path, case: str) -> None:
    text, expected = MISTAKES[case]
    path = template(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        read(path)
    assert str(raised.value).removeprefix(f"{path}:").lstrip() == expected


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_bytes(b"kind: \xff")
    with pytest.raises(ConfigError, match=r"cpu.yaml: not UTF-8 text \(invalid start byte at byte 6\); save it as UTF-8"):
        read(tmp_path / "cpu.yaml")


@pytest.mark.parametrize("more", [
    "  nodeSelector: {pool: jobs}\n",
    "  tolerations: [{key: nvidia.com/gpu, operator: Exists, tolerationSeconds: 30}]\n",
    "  imagePullSecrets: [{name: registry}]\n",
    "  overhead: {cpu: 0.1}\n",
    "  volumes: [{name: data, emptyDir: {sizeLimit: 1000000000}}]\n",
    "  initContainers: [{name: fetch, image: 'x:1', resources: {limits: {cpu: 1, memory: 1Gi}}}]\n",
    "  affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: []}}]}}\n",
    "      livenessProbe: {httpGet: {path: /, port: http}}\n",
    "      livenessProbe: {httpGet: {path: /, port: 80}}\n",
    "  runtimeClassName:\n",
])  # fmt: skip
def test_what_kubernetes_takes_is_taken(tmp_path: Path, more: str) -> None:
    assert read(template(tmp_path, SPEC + more)) == yaml.safe_load(SPEC + more)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (Project.from_environment().folder / "include" / "pod_templates").glob("*.yaml"))
)
def test_a_shipped_template_is_right(name: str) -> None:
    assert read(Project.from_environment().pod_template(name))["kind"] == "Pod"


OWN = {
    "metadata": {"name": "own", "labels": {"job": "own"}},
    "spec": {
        "serviceAccountName": "own",
        "containers": [
            {
                "name": "base",
                "image": "own",
                "command": ["own"],
                "env": [{"name": "HOME", "value": "/own"}],
                "securityContext": {"privileged": False},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}


def test_what_sluice_sets_wins_and_the_rest_is_added(tmp_path: Path) -> None:
    given = """\
kind: Pod
metadata: {name: theirs, labels: {job: theirs, team: a}, annotations: {a: b}}
spec:
  serviceAccountName: theirs
  nodeSelector: {pool: jobs}
  containers:
    - {name: logs, image: theirs}
    - name: base
      image: theirs
      command: [theirs]
      imagePullPolicy: Always
      env: [{name: HOME, value: /theirs}, {name: PROXY, value: theirs}]
      envFrom: [{secretRef: {name: theirs}}]
      securityContext: {privileged: true, seLinuxOptions: {level: s0}}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: tmp, emptyDir: {medium: Memory}}, {name: data, persistentVolumeClaim: {claimName: data}}]
"""
    made = from_template(template(tmp_path, given), OWN)
    assert made["metadata"] == {"name": "own", "labels": {"job": "own", "team": "a"}, "annotations": {"a": "b"}}
    spec = made["spec"]
    assert (spec["serviceAccountName"], spec["nodeSelector"]) == ("own", {"pool": "jobs"})
    base, logs = spec["containers"]
    assert logs == {"name": "logs", "image": "theirs"}
    assert base == {
        "name": "base",
        "image": "own",
        "command": ["own"],
        "imagePullPolicy": "Always",
        "env": [{"name": "HOME", "value": "/own"}, {"name": "PROXY", "value": "theirs"}],
        "envFrom": [{"secretRef": {"name": "theirs"}}],
        "securityContext": {"privileged": False, "seLinuxOptions": {"level": "s0"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "data", "mountPath": "/data"}],
    }
    assert spec["volumes"] == [
        {"name": "tmp", "emptyDir": {"medium": "Memory"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
    ]


def test_an_init_container_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    given = SPEC + "  initContainers: [{name: fetch, image: 'x:1'}, {name: other, image: 'x:1', terminationMessagePolicy: File}]\n"
    made = from_template(template(tmp_path, given), OWN)
    assert [container["terminationMessagePolicy"] for container in made["spec"]["initContainers"]] == ["FallbackToLogsOnError", "File"]


def test_a_template_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    folder = tmp_path / "include" / "pod_templates"
    folder.mkdir(parents=True)
    template(folder, SPEC)
    project = Project(tmp_path, tmp_path / "home", tmp_path / "cases", "pods")
    assert project.pod_template("cpu") == folder / "cpu.yaml"
    with pytest.raises(
        ConfigError, match=r"pod template 'gpu': there is no .*gpu.yaml; there are \['cpu'\]. Write it, or name one of these"
    ):
        project.pod_template("gpu")
