"""The Airflow DAGs `<use_case>__data`, one for each use case."""

from pipelines_lib.orchestration.dags import data_dag, good_use_cases

for use_case in good_use_cases():
    globals()[f"{use_case.name}__data"] = data_dag(use_case)
