"""Runs a service until a signal ends it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from ctseg.errors import BadInput, RunFailed
from ctseg.machine import handled
from ctseg_serve.app import Service, make_app

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 chooses a free one.

    Raises:
        BadInput: the host is none of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        raise BadInput(
            f"The server cannot listen on {host}, port {port}: {error}.",
            hint="Choose others with --host and --port; --port 0 takes a free one.",
        ) from error


class Server(uvicorn.Server):
    """Finishes and sends the running prediction at the first signal; ends it at its next tile at the second one.

    Args:
        on_say: called with a line when it begins to end.
    """

    def __init__(self, service: Service, on_say: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                make_app(service), http="h11", ws="none", lifespan="off", log_config=None,
                access_log=False, server_header=False, proxy_headers=False,
            )
        )  # fmt: skip
        self._service, self._on_say = service, on_say
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals without raising them again at the end: a graceful end is a success."""
        self._loop = asyncio.get_running_loop()
        try:
            with handled(ENDING, self.handle_exit):
                yield
        finally:
            self._loop = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; called with a signal between any two instructions of the main thread."""
        again, self.should_exit = self.should_exit, True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end, again)

    def _end(self, at_once: bool) -> None:
        busy = " after the running prediction" if self._service.queue.running else ""
        self._on_say("Stopping at once." if at_once else f"Stopping{busy}.")
        self._service.queue.stop(at_once=at_once)


def run(service: Service, listening: socket.socket, on_say: Callable[[str], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP.

    Raises:
        RunFailed: the server could not start.
    """
    server = Server(service, on_say)
    try:
        server.run(sockets=[listening])
    finally:
        service.queue.close()
    if not server.started:
        raise RunFailed("The server could not start.")
