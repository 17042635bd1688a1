"""Where a partition's rows come from: `source:`."""

import re
from typing import Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from pipelines_lib.use_case.base import ConnectionName, Settings
from pipelines_lib.use_case.remote import Http, Sensors, Sql, has_placeholder

FileFormat = Literal["csv", "json_lines", "parquet", "log"]

_FORMATS: dict[str, FileFormat] = {
    "json": "json_lines",
    "jsonl": "json_lines",
    "ndjson": "json_lines",
    "parquet": "parquet",
    "pq": "parquet",
}
_ACCESS = r'(?P<host>\S+) (?P<identity>\S+) (?P<user>\S+) \[(?P<time>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}|-) (?P<bytes>\d+|-)'
_USUAL: dict[str, tuple[str, str | None]] = {
    "common": (_ACCESS, "%d/%b/%Y:%H:%M:%S %z"),
    "combined": (_ACCESS + r' "(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)"', "%d/%b/%Y:%H:%M:%S %z"),
    "syslog": (
        r"(?:<(?P<priority>\d{1,3})>)?(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) (?P<host>\S+) (?P<program>[^\[:\s]+)(?:\[(?P<pid>\d+)\])?: ?(?P<message>.*)",
        "%b %d %H:%M:%S",
    ),
    "syslog_5424": (
        r"<(?P<priority>\d{1,3})>(?P<version>\d{1,2}) (?P<time>\S+) (?P<host>\S+) (?P<program>\S+) (?P<pid>\S+) (?P<message_id>\S+) (?P<data>-|(?:\[(?:[^\]\\]|\\.)*\])+)(?: (?P<message>.*))?",
        None,
    ),
    "log4j": (
        r"(?P<time>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?) +(?P<level>[A-Z]+) +\[(?P<thread>[^\]]*)\] (?P<logger>\S+) - (?P<message>.*)",
        None,
    ),
}
"""Usual patterns of log lines, and how their `time` is written where it is not ISO 8601."""


class Csv(Settings):
    """How a CSV file is written down. What is not said here is detected."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """One ASCII character; detected when absent."""
    encoding: str | None = None
    """A Python codec name; UTF-8 (with or without BOM) is tried first, then detected, when absent."""
    header: bool = True
    """Whether the first line names the columns. Without a header columns are called c0, c1, …"""
    skip: int | None = Field(default=None, ge=0)
    """Lines above the header (or above the first record), blank ones counted; detected when absent, where there is a header."""

    @field_validator("delimiter")
    @classmethod
    def _separates_cells(cls, value: str | None) -> str | None:
        if value is not None and (not value.isascii() or value in '"\r\n\0'):
            raise ValueError(
                f"{value!r} can't separate cells: a delimiter is one ASCII character that is no line end and no quote, such as ',', ';' or '\\t'; "
                "write one of these, or leave it out to have it detected"
            )
        return value


class Log(Settings):
    """How a line of a log file is taken apart."""

    pattern: str
    """Name of a usual one (`common`, `combined`, `syslog`, `syslog_5424`, `log4j`), or a regular expression (RE2) for the whole line whose
    named groups, `(?P<name>…)`, are the columns."""
    time: str = "time"
    """The group that is the record's time, where it is not written in ISO 8601."""
    time_format: str | None = None
    """How it is written, in the letters of `strptime`; a usual pattern knows. Without a year the one that is nearest to the partition is meant."""
    nothing: list[str] = Field(default_factory=lambda: ["-"])
    """Texts of a group that stand for no value."""
    encoding: str | None = None
    """A Python codec name; detected when absent."""

    @model_validator(mode="after")
    def _groups(self) -> Self:
        try:
            found = re.compile(self.regex)
        except re.error as error:
            near = f"; usual ones are {', '.join(_USUAL)}" if self.pattern.isidentifier() else ""
            raise ValueError(f"pattern is no regular expression ({error}); correct it{near}") from error
        if not found.groupindex or found.groups > len(found.groupindex):
            raise ValueError(
                f"pattern must name its groups, since they are the columns: write (?P<name>…), and (?:…) for a group that is none; usual ones are {', '.join(_USUAL)}"
            )
        if self.time_as is not None and self.time not in found.groupindex:
            raise ValueError(f"time is {self.time!r}, and pattern has the groups {', '.join(found.groupindex)}; name one of these")
        return self

    @property
    def regex(self) -> str:
        """The regular expression."""
        return _USUAL.get(self.pattern, (self.pattern, None))[0]

    @property
    def time_as(self) -> str | None:
        """How the time is written; None where it is ISO 8601, or there is none."""
        return self.time_format or _USUAL.get(self.pattern, ("", None))[1]


class Replay(Settings):
    """One finished file, played back as daily (or hourly) partitions from the use case's `start`."""

    partitions: int = Field(default=14, ge=1)
    """Over how many partitions the file's rows are spread evenly."""
    seed: int | None = Field(default=0, ge=0, lt=2**32)
    """Seed of the shuffle that decides which row falls on which partition; null keeps the file's order."""


class Source(Settings):
    """Where a partition's rows come from: a file (`path`), a database (`sql`) or an API (`http`)."""

    path: str = ""
    """A file, relative to the project's folder, absolute, or s3://bucket/key; `*`, `?` and `**` stand for several. Filled in are
    `{partition}`, `{year}`, `{month}`, `{day}`, `{hour}` and `{home}` (the state folder)."""
    connection: ConnectionName | None = None
    """Airflow connection (type `aws`) of the store, where `path` begins with s3://: key and secret, `endpoint_url` of a store that is
    not Amazon's. Left out, boto3 looks for credentials where it always does."""
    sql: Sql | None = None
    """A query to a database, in place of a file."""
    http: Http | None = None
    """An HTTP API that answers in JSON, in place of a file."""
    sensors: Sensors | None = None
    """Set where the records are readings of sensors, to be made into rows."""
    format: Literal["csv", "json_lines", "parquet"] | None = None
    """How the file is written; told by its name when absent: .jsonl, .ndjson and .json are JSON lines, .parquet is Parquet, all others CSV.
    Whether it is packed (gzip, zstd) its first bytes tell."""
    csv: Csv = Csv()
    log: Log | None = None
    """Set where the file is a log."""
    replay: Replay | None = None
    """Set where `path` is one finished file rather than one file a partition."""
    land: bool = False
    """Whether `hooks.py` has `land(partition_key, path, params)`, which collects the partition's file before it is read."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Handed to `land`."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        places = [name for name, given in (("path", self.path), ("sql", self.sql), ("http", self.http)) if given]
        if len(places) != 1:
            raise ValueError(f"rows come from one place, and this names {' and '.join(places) or 'none'}; set one of path, sql, http")
        if of_files := sorted({"csv", "format", "land", "log", "params", "replay"} & self.model_fields_set) if not self.path else []:
            raise ValueError(f"`{of_files[0]}` is about a file, and the rows come from `{places[0]}`; remove it")
        if self.replay is not None and has_placeholder(self.path):
            raise ValueError("`replay` spreads one file over partitions, so path must not contain {partition}; remove one of the two")
        in_a_bucket, several = self.path.startswith("s3://"), any(sign in self.path for sign in "*?")
        if self.connection is not None and not in_a_bucket:
            raise ValueError("`connection` is about a store, and `path` does not begin with s3://; remove it, or correct the path")
        if self.land and (in_a_bucket or several):
            raise ValueError("`land` writes one file of this machine; let path name it, or remove `land`")
        if self.replay is not None and several:
            raise ValueError("`replay` spreads one file over partitions, and path stands for several; name one, or remove `replay`")
        if self.log is not None and (of_others := sorted({"csv", "format"} & self.model_fields_set)):
            raise ValueError(f"`log` says how the file is written, and so does `{of_others[0]}`; remove one of the two")
        if "csv" in self.model_fields_set and self.path and self.file_format != "csv":
            raise ValueError(f"`csv` is about a CSV file, and this one is {self.file_format}; remove it, or set `format: csv`")
        if self.sensors is not None and self.replay is not None and self.replay.seed is not None:
            raise ValueError("`replay` shuffles the records, which tears a series apart; set replay.seed to null, which keeps their order")
        return self

    @property
    def kind(self) -> Literal["path", "sql", "http"]:
        """The setting that says where the rows come from."""
        return "sql" if self.sql is not None else "http" if self.http is not None else "path"

    @property
    def file_format(self) -> FileFormat:
        """How the file of `path` is written."""
        if self.log is not None:
            return "log"
        ending = self.path.lower().removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
        return self.format or _FORMATS.get(ending, "csv")

    def by_partition(self) -> bool:
        """Whether each partition has records of its own; otherwise every one is given the same."""
        if self.sql is not None:
            return self.sql.by_partition()
        if self.http is not None:
            return self.http.by_partition()
        return self.replay is not None or has_placeholder(self.path)

    def lacks(self, partition: Literal["day", "hour"]) -> list[str]:
        """Placeholders without which several partitions would be given the same files."""
        if not self.path or self.replay is not None or "{partition}" in self.path:
            return []
        parts = ["year", "month", "day", *(["hour"] if partition == "hour" else [])]
        return [f"{{{name}}}" for name in parts if f"{{{name}}}" not in self.path]

    def described(self) -> str:
        """What a message calls it."""
        if self.sql is not None:
            return f"the query through connection {self.sql.connection!r}"
        return self.path if self.http is None else self.http.url
