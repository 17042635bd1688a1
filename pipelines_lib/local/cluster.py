"""The part of `sluice doctor` about a cluster: what its API server says of the profile. It asks with whatever credentials there are, and changes nothing."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from kubernetes import config
from kubernetes.client import (
    ApiClient,
    ApiException,
    ApisApi,
    AuthorizationV1Api,
    Configuration,
    CoreV1Api,
    V1ResourceAttributes,
    V1SelfSubjectAccessReview,
    V1SelfSubjectAccessReviewSpec,
    VersionApi,
)
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from pipelines_lib.cluster import Kubernetes
from pipelines_lib.local.doctor import Finding
from pipelines_lib.pods.rights import DEPLOYER, KSERVE, LAUNCHER, TRAINER, Rights

_SECONDS = 10
"""How long an answer may take."""
_FORBIDDEN, _NOT_FOUND = 403, 404
_NAMES_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Asks for an object without what is in it: nothing of a Secret leaves the cluster."""


def examine_cluster(kubernetes: Kubernetes, *, trainjobs: bool = False) -> list[Finding]:
    """What the API server says that KUBECONFIG, or the account of the pod that this runs in, names. Never raises over what it finds.

    `trainjobs` says that trainings are TrainJobs of Kubeflow's.
    """
    try:
        client = _client()
    except ConfigException as error:
        why = f"the cluster was not asked: neither KUBECONFIG nor the account of a pod leads to it ({error})"
        return [Finding(True, why)]
    findings: list[Finding] = []
    with client:
        try:
            findings += _Cluster(client, kubernetes, trainjobs).findings()
        except ApiException as error:
            remedy = "is KUBECONFIG that of the right cluster, and are its credentials still good?"
            findings.append(Finding(False, f"the API server at {client.configuration.host} answers {error.status} {error.reason}", remedy))
        except (HTTPError, OSError) as error:
            remedy = "is it up, and can it be reached from here? KUBECONFIG says where it is"
            findings.append(Finding(False, f"the API server at {client.configuration.host} does not answer ({error})", remedy))
    return findings


def _client() -> ApiClient:
    settings = Configuration()
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=settings)
    else:
        config.load_kube_config(client_configuration=settings)
    settings.retries = False  # somebody waits
    settings.client_side_validation = False  # of answers: other versions leave out what this client's model must have
    return ApiClient(settings)


@dataclass(frozen=True)
class _Cluster:
    """A cluster that answers. Its methods raise what the client does."""

    client: ApiClient
    kubernetes: Kubernetes
    trainjobs: bool = False

    def findings(self) -> Iterator[Finding]:
        version = VersionApi(self.client).get_code(_request_timeout=_SECONDS).git_version
        yield Finding(True, f"the API server at {self.client.configuration.host} answers, and is {version}")
        yield self._namespace()
        yield from self._rights()
        yield from self._apis()
        yield from self._objects()

    def _namespace(self) -> Finding:
        name = self.kubernetes.namespace
        try:
            CoreV1Api(self.client).read_namespace(name, _request_timeout=_SECONDS)
        except ApiException as error:
            if error.status == _FORBIDDEN:
                return Finding(True, f"whether there is a namespace {name} is not for these credentials to see")
            if error.status != _NOT_FOUND:
                raise
            remedy = "`kubectl apply -f docker/cluster/base/namespaces.yaml` makes it; or correct kubernetes.namespace of the profile"
            return Finding(False, f"there is no namespace {name}", remedy)
        return Finding(True, f"namespace {name} is there")

    def _rights(self) -> Iterator[Finding]:
        """What these credentials may do; those of Airflow and those of a person differ, so the remedy says whose need it."""
        where = f"in namespace {self.kubernetes.namespace}"
        denied = list(self._denied(LAUNCHER))
        yield Finding(
            not denied,
            f"these credentials may not {', '.join(denied)} {where}" if denied else f"these credentials may run stages as pods {where}",
            "Airflow's need the Role sluice-launcher of docker/cluster/base/rights.yaml: apply it, or ask with Airflow's own",
        )
        if self.trainjobs:
            denied = list(self._denied(TRAINER))
            yield Finding(
                not denied,
                f"these credentials may not {', '.join(denied)} {where}"
                if denied
                else f"these credentials may run trainings as TrainJobs {where}",
                "Airflow's need the Role sluice-trainer of docker/cluster/components/trainjob: add the component, or ask with Airflow's own",
            )
        by_kserve = self.kubernetes.serving == "kserve"
        denied = list(self._denied(DEPLOYER | KSERVE if by_kserve else DEPLOYER))
        theirs = f"; the stages deploy and verify (service account {self.kubernetes.deployer}) and `sluice serve` have to"
        yield Finding(
            True, f"these credentials may {'not ' if denied else ''}bring up the service of a model {where}" + (theirs if denied else "")
        )

    def _denied(self, rights: Rights) -> Iterator[str]:
        for (group, resource), verbs in rights.items():
            name, _, part = resource.partition("/")
            for verb in verbs:
                asked = V1ResourceAttributes(
                    namespace=self.kubernetes.namespace, verb=verb, group=group, resource=name, subresource=part or None
                )
                review = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
                answer = AuthorizationV1Api(self.client).create_self_subject_access_review(review, _request_timeout=_SECONDS)
                if not answer.status.allowed:
                    yield f"{verb} {resource}"

    def _apis(self) -> Iterator[Finding]:
        """Which kinds of objects there are, of those that not every cluster has."""
        groups = {group.name: group for group in ApisApi(self.client).get_api_versions(_request_timeout=_SECONDS).groups}
        versions = {version.group_version for group in groups.values() for version in group.versions}
        for kind, what in (("autoscaling/v2", "autoscaler"), ("policy/v1", "disruption budget")):
            if kind not in versions:
                yield Finding(True, f"there is no {kind}, so the service of a model goes without {what}")
        for group, name in (("kueue.x-k8s.io", "Kueue"), ("trainer.kubeflow.org", "Kubeflow's TrainJob"), ("serving.kserve.io", "KServe")):
            remedies = {
                **(
                    {"kueue.x-k8s.io": "install it, or remove `queue` from the profile: pods then go to the scheduler at once"}
                    if self.kubernetes.queue
                    else {}
                ),
                **({"trainer.kubeflow.org": "install Kubeflow Trainer 2, or set `launcher: kubernetes`"} if self.trainjobs else {}),
                **(
                    {"serving.kserve.io": "install it, or set `kubernetes.serving: deployment`"}
                    if self.kubernetes.serving == "kserve"
                    else {}
                ),
            }
            found = f"{name} is {'' if group in groups else 'not '}installed"
            yield Finding(group in groups or group not in remedies, found, remedies.get(group, ""))
        if self.kubernetes.queue is not None and (kueue := groups.get("kueue.x-k8s.io")) is not None:
            api, how = f"/apis/{kueue.preferred_version.group_version}", "make it (docker/cluster/components/kueue has one)"
            yield self._found("LocalQueue", api, "localqueues", self.kubernetes.queue, f"{how}, or correct kubernetes.queue of the profile")

    def _objects(self) -> Iterator[Finding]:
        """What pods name, and could not begin without."""
        accounts = {self.kubernetes.service_account: "service_account", self.kubernetes.deployer: "deployer"}
        for name, field in accounts.items():
            how = f"`kubectl apply -f docker/cluster/base/rights.yaml` makes those of the shipped profiles; or correct kubernetes.{field}"
            yield self._found("ServiceAccount", "/api/v1", "serviceaccounts", name, how)
        for name in self.kubernetes.secrets:
            yield self._found("Secret", "/api/v1", "secrets", name, "make it, or correct kubernetes.secrets of the profile")

    def _found(self, kind: str, api: str, plural: str, name: str, remedy: str) -> Finding:
        """Whether there is an object, by its name alone."""
        what = f"{kind} {name} in namespace {self.kubernetes.namespace}"
        try:
            self.client.call_api(
                f"{api}/namespaces/{self.kubernetes.namespace}/{plural}/{name}",
                "GET",
                header_params={"Accept": _NAMES_ONLY},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=_SECONDS,
            )
        except ApiException as error:
            if error.status == _FORBIDDEN:
                return Finding(True, f"whether there is a {what} is not for these credentials to see")
            if error.status != _NOT_FOUND:
                raise
            return Finding(False, f"there is no {what}", remedy)
        return Finding(True, f"{what} is there")
