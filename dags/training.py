"""The Airflow DAGs `<use_case>__training`, one for each use case."""

from pipelines_lib.orchestration.dags import good_use_cases, training_dag

for use_case in good_use_cases():
    globals()[f"{use_case.name}__training"] = training_dag(use_case)
