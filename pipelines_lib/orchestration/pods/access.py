"""The way to the cluster that the profile names."""

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk.exceptions import AirflowFailException

from pipelines_lib.cluster import Kubernetes
from pipelines_lib.orchestration.operators import Asked


def cluster_of(asked: Asked) -> Kubernetes:
    """The profile's settings of the cluster. Raises `AirflowFailException` where it has none."""
    kubernetes = asked.profile.kubernetes
    if kubernetes is None:
        raise AirflowFailException(f"profile {asked.profile.name} has no `kubernetes`, and this task works on a cluster; give it one")
    return kubernetes


def hook_of(kubernetes: Kubernetes) -> KubernetesHook:
    """Airflow's client: by the connection of the profile, or as the pod that this is."""
    connection = kubernetes.connection
    return KubernetesHook(conn_id=connection, kubernetes_conn_id=None, in_cluster=True if connection is None else None)
