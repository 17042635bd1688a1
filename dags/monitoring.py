"""The Airflow DAGs `<use_case>__monitoring`, one for each use case."""

from pipelines_lib.orchestration.dags import good_use_cases, monitoring_dag

for use_case in good_use_cases():
    globals()[f"{use_case.name}__monitoring"] = monitoring_dag(use_case)
