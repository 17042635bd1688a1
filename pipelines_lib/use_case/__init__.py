"""What a use case says in its `use_case.yaml`, one module a part. Every setting's doc stands under it.

Read at every DAG parse, so it imports pydantic and croniter alone.
"""

from pipelines_lib.use_case.base import ConnectionName, Settings
from pipelines_lib.use_case.case import HIGHER_IS_BETTER, METRICS, OF_LISTS, Task, UseCase
from pipelines_lib.use_case.cleaning import CleaningStep, FillForward, Outliers, Statistic
from pipelines_lib.use_case.columns import RESERVED_COLUMNS, Column, ColumnType, PrivacyRole, Protect, Role
from pipelines_lib.use_case.gate import Gate
from pipelines_lib.use_case.joins import Join
from pipelines_lib.use_case.label import LIKELY, Label, classes_in
from pipelines_lib.use_case.monitoring import SHOWN_ALONE, Monitoring
from pipelines_lib.use_case.privacy import Privacy
from pipelines_lib.use_case.quality import Quality, Upstream
from pipelines_lib.use_case.remote import Http, Sensors, Sql
from pipelines_lib.use_case.rules import FieldErrors
from pipelines_lib.use_case.schedule import Schedule
from pipelines_lib.use_case.serving import Deployment, Recommend, Token
from pipelines_lib.use_case.source import Csv, Log, Replay, Source
from pipelines_lib.use_case.split import Split
from pipelines_lib.use_case.training import Model, Shuffle, Training
from pipelines_lib.use_case.tuning import Searched, Tuning

__all__ = [
    "HIGHER_IS_BETTER",
    "LIKELY",
    "METRICS",
    "OF_LISTS",
    "RESERVED_COLUMNS",
    "SHOWN_ALONE",
    "CleaningStep",
    "Column",
    "ColumnType",
    "ConnectionName",
    "Csv",
    "Deployment",
    "FieldErrors",
    "FillForward",
    "Gate",
    "Http",
    "Join",
    "Label",
    "Log",
    "Model",
    "Monitoring",
    "Outliers",
    "Privacy",
    "PrivacyRole",
    "Protect",
    "Quality",
    "Recommend",
    "Replay",
    "Role",
    "Schedule",
    "Searched",
    "Sensors",
    "Settings",
    "Shuffle",
    "Source",
    "Split",
    "Sql",
    "Statistic",
    "Task",
    "Token",
    "Training",
    "Tuning",
    "Upstream",
    "UseCase",
    "classes_in",
]
