"""The Airflow world: what runs, when, after what, with which retries. The only package that imports Airflow."""
