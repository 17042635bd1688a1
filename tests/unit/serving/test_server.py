"""The server as a real process on loopback."""

import json
import os
import signal
import socket
import threading
import time

import psutil
import pytest

from pipelines_lib.config import Project
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, Unavailable
from pipelines_lib.launcher import MARK
from pipelines_lib.serving import local

RECORD = {"amount": 0.5, "age": 40, "member": True, "country": "de"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    first = 20_000 + os.getpid() * 50 % 10_000  # another test run on this machine has others
    monkeypatch.setattr(local, "PORTS", range(first, first + 50))
    made = Project(folder=tmp_path, home=tmp_path / "home", use_cases=tmp_path / "use_cases", profile_name="local")
    yield made
    for service in local.running(made):
        local.stop(service.use_case, made)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store" / "shop"


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def ask(port, **options):
    return local.ask(port, "/invocations", {"dataframe_records": [RECORD], **options})


def version(port):
    return local.ask(port, "/v2/models/shop")[1]["versions"][0]


def test_one_life_of_a_service(project, root, deploy, make_use_case, monkeypatch):
    """One process, so that the test is quick: start, swap under requests, a bad package, a lost pointer, SIGTERM."""
    monkeypatch.setenv(MARK, "the mark of the deploy job")
    deploy(root, 1)
    use_case = make_use_case()
    service = local.ensure(use_case, project, root)
    assert local.ensure(use_case, project, root) == service
    assert local.running(project) == [service]
    process = psutil.Process(service.pid)
    assert MARK not in process.environ()
    assert os.getsid(service.pid) == service.pid
    assert {connection.laddr.ip for connection in process.net_connections() if connection.status == "LISTEN"} == {"127.0.0.1"}

    # A new version takes over while requests come in; every one is answered, by one version or the other.
    statuses, scores, stop = [], set(), threading.Event()

    def keep_asking():
        while not stop.is_set():
            status, answer = ask(service.port, params={"partition_key": "2026-01-05"})
            statuses.append(status)
            scores.add(round(answer["predictions"][0]["score"], 6))

    askers = [threading.Thread(target=keep_asking) for _ in range(3)]
    for asker in askers:
        asker.start()
    until(lambda: scores)
    for number in (2, 3):
        deploy(root, number, bias=number)
        until(lambda number=number: version(service.port) == str(number))
        until(lambda number=number: len(scores) == number)
    stop.set()
    for asker in askers:
        asker.join()
    assert set(statuses) == {200}
    assert len(scores) == 3, "three versions answered"

    # A damaged package never takes over; the page and the metadata say why.
    bad = deploy(root, 3, bias=3)
    (root.parent / bad / "model.onnx").write_bytes(b"no graph")
    deploy(root, 4, package=bad)
    until(lambda: local.ask(service.port, "/v2/models/shop")[1]["parameters"]["error"])
    assert version(service.port) == "3"
    assert "was changed" in local.ask(service.port, "/v2/models/shop")[1]["parameters"]["error"]
    deploy(root, 5, bias=1)
    until(lambda: version(service.port) == "5")
    until(lambda: local.ask(service.port, "/v2/models/shop")[1]["parameters"]["error"] is None)

    # SIGTERM: what was answered is written first.
    status, _ = ask(service.port, params={"id": "last words", "partition_key": "2026-01-06"})
    assert status == 200
    assert local.stop("shop", project)
    assert not local.stop("shop", project)
    assert local.running(project) == []
    rows = Tables(root).read("predictions")
    assert rows.num_rows == len(statuses) + 1
    assert rows["row_id"].to_pylist()[-1] == "last words"

    # Started again it has the port that people know.
    assert local.ensure(use_case, project, root).port == service.port


def test_a_changed_token_is_asked_for_by_another_process(project, root, deploy, make_use_case, monkeypatch):
    deploy(root, 1)
    guarded = make_use_case(deployment={"token": {"connection": "shop_token"}})
    with pytest.raises(ConfigError, match="SLUICE_CONN_SHOP_TOKEN"):
        local.ensure(guarded, project, root)
    seen = set()
    for token in ("the-first-long-token", "the-other-long-token"):
        monkeypatch.setenv("SLUICE_CONN_SHOP_TOKEN", json.dumps({"conn_type": "generic", "password": token}))
        service = local.ensure(guarded, project, root)
        assert local.ensure(guarded, project, root) == service
        seen.add(service.pid)
        assert token not in " ".join(psutil.Process(service.pid).cmdline())
        assert ask(service.port)[0] == 401
        [replica], _ = local.Processes(guarded, project, root).replicas(candidate=False)
        assert replica.ask("/v2/models/shop")[0] == 200
    assert len(seen) == 2


def test_a_recycled_process_id_is_left_alone(project, root, deploy, make_use_case):
    deploy(root, 1)
    mine = psutil.Process()
    record = local.Record(
        use_case="shop", root=str(root), url="", port=8899, pid=mine.pid, create_time=mine.create_time()
    )  # this very process, which is no server
    path = project.home / "services" / "serving-shop.json"
    path.parent.mkdir(parents=True)
    path.write_text(record.model_dump_json())
    assert local.running(project) == []
    assert not local.stop("shop", project)
    path.write_text(record.model_copy(update={"create_time": record.create_time - 1000}).model_dump_json())
    assert local.running(project) == []


def test_a_port_that_is_taken_is_said(project, root, make_use_case):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"port {port} \(deployment.port\) is taken"):
            local.ensure(make_use_case(deployment={"port": port}), project, root)


def test_another_process_that_is_quicker_gets_the_port(project, root, deploy, make_use_case, monkeypatch):
    deploy(root, 1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        free = local._pick_port(None, None, project)
        ports = iter([other.getsockname()[1], free])
        monkeypatch.setattr(local, "_pick_port", lambda *_: next(ports))
        assert local.ensure(make_use_case(), project, root).port == free


def test_a_service_that_does_not_come_up_shows_the_end_of_its_log(project, root, make_use_case, monkeypatch):
    monkeypatch.setattr(local, "_MODULE", "pipelines_lib.serving.no_such_module")
    with pytest.raises(Unavailable, match=r"(?s)service of shop did not start: it ended before it answered.*No module named"):
        local.ensure(make_use_case(), project, root)


def test_a_killed_service_is_started_again(project, root, deploy, make_use_case):
    deploy(root, 1)
    first = local.ensure(make_use_case(), project, root)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: local.running(project) == [])
    second = local.ensure(make_use_case(), project, root)
    assert (second.port, second.pid != first.pid) == (first.port, True)
    assert json.loads((project.home / "services" / "serving-shop.json").read_text())["pid"] == second.pid
