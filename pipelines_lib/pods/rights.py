"""What who works with the cluster may do there, and no more: `docker/cluster/base/rights.yaml` grants it, `sluice doctor` asks for it."""

Rights = dict[tuple[str, str], tuple[str, ...]]
"""API group and resource, in the namespace of the jobs, to verbs."""

LAUNCHER: Rights = {
    ("", "pods"): ("create", "get", "list", "delete"),
    ("", "pods/log"): ("get",),
    ("", "events"): ("list",),
    ("", "secrets"): ("create",),
    ("", "services"): ("create", "delete"),
}
"""Airflow: to start pods, follow them and take them away."""

TRAINER: Rights = {
    ("trainer.kubeflow.org", "trainjobs"): ("create", "get", "list", "delete"),
    ("trainer.kubeflow.org", "trainingruntimes"): ("create", "get", "list", "delete"),
}
"""Airflow with the launcher `trainjob`, beside those (`docker/cluster/components/trainjob` grants it)."""

DEPLOYER: Rights = {
    ("apps", "deployments"): ("create", "patch", "get", "delete"),
    ("", "services"): ("create", "patch", "delete"),
    ("autoscaling", "horizontalpodautoscalers"): ("create", "patch", "delete"),
    ("policy", "poddisruptionbudgets"): ("create", "patch", "delete"),
    ("", "pods"): ("list",),
}
"""The stages deploy and verify, and `sluice serve`: to bring up the service of a model."""

KSERVE: Rights = {("serving.kserve.io", "inferenceservices"): ("create", "patch", "delete")}
"""The same with `kubernetes.serving: kserve`, beside those (`docker/cluster/components/kserve` grants it)."""
