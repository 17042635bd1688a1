"""Sluice: from raw data to a monitored model and back to retraining."""

__version__ = "0.1.0"
