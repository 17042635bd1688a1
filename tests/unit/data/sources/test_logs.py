import datetime as dt

import pytest

from pipelines_lib.data.sources import logs
from pipelines_lib.data.sources.stream import File
from pipelines_lib.errors import ConfigError, DataError
from pipelines_lib.use_case import Log

AROUND = dt.datetime(2026, 1, 2)


def read(folder, text, log, around=AROUND):
    """(rows, numbers, unreadable) of a log with this content."""
    path = folder / "file.log"
    path.write_bytes(text.encode())
    batches = list(logs.records(File(str(path), path), log, around).batches)
    return (
        [row for batch in batches for row in batch.rows.to_pylist()],
        [number for batch in batches for number in batch.numbers.to_pylist()],
        [(record.number, record.text, record.why) for batch in batches for record in batch.unreadable],
    )


def test_access_logs(tmp_path):
    line = '127.0.0.1 - frank [10/Oct/2025:13:55:36 -0700] "GET /a?q=\\"x\\" HTTP/1.0" 200 - "-" "Mozilla/4.08 [en]"\n'

    [[row], _, _] = read(tmp_path, line, Log(pattern="combined"))

    assert row == {
        "host": "127.0.0.1",
        "identity": None,
        "user": "frank",
        "time": "2025-10-10T20:55:36",
        "request": 'GET /a?q=\\"x\\" HTTP/1.0',
        "status": "200",
        "bytes": None,
        "referer": None,
        "agent": "Mozilla/4.08 [en]",
    }
    assert read(tmp_path, line.partition(' "-"')[0], Log(pattern="common"))[0] == [
        {name: value for name, value in row.items() if name not in ("referer", "agent")}
    ]


def test_system_logs(tmp_path):
    line = '<34>1 2026-01-02T22:14:15.003Z host su 17 ID47 [x@32473 iut="3" y="a\\]b"][z@1] \'su root\' failed\n'
    assert read(tmp_path, line, Log(pattern="syslog_5424"))[0] == [
        {
            "priority": "34",
            "version": "1",
            "time": "2026-01-02T22:14:15.003Z",
            "host": "host",
            "program": "su",
            "pid": "17",
            "message_id": "ID47",
            "data": '[x@32473 iut="3" y="a\\]b"][z@1]',
            "message": "'su root' failed",
        }
    ]
    [[row, other], _, _] = read(
        tmp_path, "Dec 31 23:59:58 web sshd[42]: Accepted: key\n<13>Jan  2 00:00:01 web cron: run\n", Log(pattern="syslog")
    )
    assert row == {
        "priority": None,
        "time": "2025-12-31T23:59:58",
        "host": "web",
        "program": "sshd",
        "pid": "42",
        "message": "Accepted: key",
    }
    assert (other["priority"], other["time"], other["pid"]) == ("13", "2026-01-02T00:00:01", None)


def test_a_leap_day_without_a_year_is_of_the_nearest_that_has_one(tmp_path):
    assert read(tmp_path, "Feb 29 00:00:00 h p: m\n", Log(pattern="syslog"), dt.datetime(2025, 1, 5))[0][0]["time"] == "2024-02-29T00:00:00"


def test_applications_logs(tmp_path):
    [[row], _, _] = read(tmp_path, "2026-01-02 03:04:05,678 WARN  [main] org.x.Y - low - disk\r\n", Log(pattern="log4j"))

    assert (row["time"], row["level"], row["message"]) == ("2026-01-02 03:04:05,678", "WARN", "low - disk")


def test_lines_that_do_not_match_are_kept_with_their_numbers(tmp_path):
    log = Log(pattern=r"(?P<at>\S+) (?P<n>\d+)", time="at", time_format="%d.%m.%Y")

    rows, numbers, unreadable = read(tmp_path, "01.01.2026 7\n\n  at com.x.Y(Z.java)\n31.02.2026 8\n02.01.2026 9", log)

    assert (rows, numbers) == ([{"at": "2026-01-01T00:00:00", "n": "7"}, {"at": "2026-01-02T00:00:00", "n": "9"}], [1, 5])
    assert unreadable == [(3, "  at com.x.Y(Z.java)", "does not match the pattern"), (4, "31.02.2026 8", "at is not %d.%m.%Y")]


@pytest.mark.parametrize(
    ("form", "written", "iso"),
    [
        ("%c", "Thu Jan  2 03:04:05 2020", "2020-01-02T03:04:05"),
        ("%x", "01/02/20", "2020-01-02T00:00:00"),
        ("%G-W%V-%u", "2020-W01-4", "2020-01-02T00:00:00"),
        ("%d.%m.%y", "02.01.20", "2020-01-02T00:00:00"),
    ],
)
def test_every_way_to_say_a_year_is_one(tmp_path, form, written, iso):
    rows, _, _ = read(tmp_path, f"{written}\n", Log(pattern="(?P<time>.+)", time_format=form))

    assert rows == [{"time": iso}]


def test_a_time_that_utc_has_no_year_for_costs_its_line_alone(tmp_path):
    log = Log(pattern="(?P<time>.+)", time_format="%Y-%m-%d %H:%M %z")

    rows, _, unreadable = read(tmp_path, "2026-01-02 03:04 +0000\n0001-01-01 00:00 +0500\n9999-12-31 23:00 -0500\n", log)

    assert rows == [{"time": "2026-01-02T03:04:00"}]
    assert [number for number, _, _ in unreadable] == [2, 3]


def test_what_can_not_be_right_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"none of its first 2 lines is a record \(line 1: does not match the pattern\); correct source\.log\.pattern"
    ):
        read(tmp_path, "a\nb\n", Log(pattern="common"))
    with pytest.raises(DataError, match=r"first 2 lines is a record \(line 2: at is not %d\.%m\); set source\.log\.time_format"):
        read(tmp_path, "# the log\n2026-01-02\n", Log(pattern=r"(?P<at>\d\S+)", time="at", time_format="%d.%m"))
    with pytest.raises(ConfigError, match=r"source\.log\.pattern: .*look-ahead"):
        read(tmp_path, "a\n", Log(pattern="(?=a)(?P<x>a)"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pattern": "apache"}, "usual ones are common"),
        ({"pattern": "(a"}, "no regular expression"),
        ({"pattern": "(a)(?P<x>b)"}, "must name its groups"),
        ({"pattern": "(?P<x>b)", "time_format": "%Y"}, "time is 'time', and pattern has the groups x"),
    ],
)
def test_patterns_that_can_not_be_right_are_refused_in_the_settings(given, says):
    with pytest.raises(ValueError, match=says):
        Log(**given)
