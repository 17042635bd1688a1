"""Which pods may talk to the cluster."""

import pytest

from pipelines_lib.config import Project
from pipelines_lib.contracts import STAGES, JobSpec, Pipeline
from pipelines_lib.orchestration.pods.manifest import stage_pod


@pytest.mark.parametrize(("pipeline", "stage"), [(pipeline, stage) for pipeline, stages in STAGES.items() for stage in stages])
def test_what_brings_up_a_service_alone_gets_a_token(pipeline: Pipeline, stage: str) -> None:
    kubernetes = Project.from_environment().profile("cluster").kubernetes
    assert kubernetes is not None
    spec = JobSpec(stage=stage, pipeline=pipeline, use_case="shop", partition_key="2026-01-05", run_id="r", store="s3://b/p")
    pod = stage_pod(spec, kubernetes, name="p", labels={}, has_secret=False)["spec"]
    account = (pod["serviceAccountName"], pod["automountServiceAccountToken"])
    assert account == (("sluice-deployer", True) if stage in ("deploy", "verify") else ("sluice-job", False))
