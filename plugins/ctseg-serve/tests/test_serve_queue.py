"""The queue: full, left by clients, out of time, stopped."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ctseg_serve.limits import Limits


@pytest.fixture
def body(make: Any, tmp_path: Path) -> bytes:
    return make.scan(tmp_path / "scan.nii.gz", make.array()).read_bytes()


@pytest.fixture
def post() -> Any:
    """Posts in a thread: `post(url, body)` is the future of the response."""
    with ThreadPoolExecutor(8) as pool:

        def run(url: str, body: Any) -> Future[httpx.Response]:
            return pool.submit(httpx.post, f"{url}/predict", content=body, timeout=60)

        yield run


def until(true: Callable[[], object]) -> None:
    """Wait for something that another thread brings about."""
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it does not happen")


@pytest.fixture
def raw() -> Any:
    """Clients that send a request, or part of its body, and read no response."""
    with contextlib.ExitStack() as stack:

        def start(server: Any, body: bytes, sent: int | None = None) -> socket.socket:
            client = stack.enter_context(socket.create_connection(server.host))
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body[:sent])
            return client

        yield start


def closed(server: Any) -> bool:
    """Whether connections are refused."""
    try:
        socket.create_connection(server.host).close()
    except ConnectionRefusedError:
        return True
    return False


def jobs(server: Any) -> int:
    return len(server.service.queue.jobs)


def test_a_full_queue_says_when_to_come_back(serve: Any, gate: Any, post: Any, body: bytes) -> None:
    server = serve(gate, limits=Limits(waiting=2))
    futures = [post(server.url, body) for _ in range(3)]
    until(lambda: jobs(server) == 3 and gate.reached.is_set())
    found = httpx.post(f"{server.url}/predict", content=body)
    assert found.status_code == 503
    assert 1 <= int(found.headers["retry-after"]) <= 120
    assert "3 requests" in found.json()["detail"]
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "ctseg_waiting 2\n" in metrics
    assert "ctseg_running 1\n" in metrics
    assert httpx.get(f"{server.url}/health/ready").status_code == 200
    gate.open.set()
    assert [f.result(30).status_code for f in futures] == [200] * 3
    assert httpx.post(f"{server.url}/predict", content=body).status_code == 200
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'ctseg_requests_total{status="200"} 4\n' in metrics
    assert 'ctseg_requests_total{status="503"} 1\n' in metrics
    assert 'ctseg_prediction_seconds_bucket{le="+Inf"} 4\n' in metrics
    assert f"ctseg_received_bytes_total {4 * len(body)}\n" in metrics
    assert server.left() == []


def test_clients_that_leave_stop_their_predictions(
    serve: Any, gate: Any, post: Any, raw: Any, body: bytes
) -> None:
    server = serve(gate)
    runs = raw(server, body)
    until(gate.reached.is_set)
    waits = raw(server, body)
    until(lambda: jobs(server) == 2)
    last = post(server.url, body)
    until(lambda: jobs(server) == 3)
    waits.close()
    until(lambda: jobs(server) == 2)
    runs.close()
    until(lambda: any(job.reason == "gone" for job in server.service.queue.jobs))
    gate.open.set()
    assert last.result(30).status_code == 200
    until(lambda: jobs(server) == 0)
    tiles = gate.tiles
    assert httpx.post(f"{server.url}/predict", content=body).status_code == 200
    whole = gate.tiles - tiles
    assert whole < tiles < 1.5 * whole  # few of the first, none of the second, all of the last
    assert 'ctseg_requests_total{status="499"} 2\n' in httpx.get(f"{server.url}/metrics").text
    assert sum("  499  " in line for line in server.said) == 2  # a job's id may hold these digits
    assert server.left() == []


def test_a_client_that_leaves_while_it_sends(serve: Any, raw: Any, body: bytes) -> None:
    server = serve()
    client = raw(server, body, 100)
    until(lambda: jobs(server) == 1)
    client.close()
    until(lambda: jobs(server) == 0)
    assert len(server.said) == 1 and "  499  " in server.said[0]
    assert server.left() == []


def test_a_prediction_out_of_time(serve: Any, gate: Any, post: Any, body: bytes) -> None:
    server = serve(gate)
    found = post(server.url, body)
    until(gate.reached.is_set)
    (job,) = server.service.queue.jobs
    assert 0 < job.deadline - time.monotonic() <= 600
    job.deadline = time.monotonic()
    gate.open.set()
    assert found.result(30).status_code == 504
    assert "longer than the 600 s" in found.result().json()["detail"]
    assert server.left() == []


def test_a_signal_lets_the_running_prediction_finish(
    serve: Any, gate: Any, post: Any, raw: Any, body: bytes
) -> None:
    server = serve(gate)
    runs = post(server.url, body)
    until(gate.reached.is_set)
    waits = post(server.url, body)
    until(lambda: jobs(server) == 2)
    sends = raw(server, body, 100)
    until(lambda: jobs(server) == 3)
    server.server.handle_exit(15, None)
    assert waits.result(30).status_code == 503
    assert waits.result().headers["retry-after"]
    assert sends.recv(100).startswith(b"HTTP/1.1 503")
    sends.close()
    until(lambda: jobs(server) == 1)
    until(lambda: closed(server))
    gate.open.set()
    assert runs.result(30).status_code == 200
    assert "Stopping after the running prediction." in server.said
    assert server.left() == []


def test_a_second_signal_does_not_wait(serve: Any, gate: Any, post: Any, body: bytes) -> None:
    server = serve(gate)
    runs = post(server.url, body)
    until(gate.reached.is_set)
    server.server.handle_exit(15, None)
    server.server.handle_exit(15, None)
    until(lambda: any(job.reason == "stopping" for job in server.service.queue.jobs))
    threading.Timer(0.1, gate.open.set).start()
    assert runs.result(30).status_code == 503
    assert gate.tiles < 4
    assert "Stopping at once." in server.said
    assert server.left() == []
