"""Sluice on one machine: its services, its `airflow_settings.yaml`, and the demo. Nothing here runs on a cluster."""
