"""A static web server in a thread, with faults; and a zoo for it to serve."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ctseg.card import Card
from ctseg.engine.model.weights import read_weights, save_weights, tensors_sha256
from tests.engine.small_model import write_model

Fault = Callable[["Handler", bytes], None]
FILE = "small.safetensors"


def make_entry(zoo: Path, name: str = "unet3d.small_v1", **changes: Any) -> Path:
    """An entry with true weights and card, without an index."""
    entry = zoo / name
    entry.mkdir(parents=True)
    file = write_model(entry / FILE)
    tensors, made = read_weights(file)
    member = {"file": FILE, "tensors_sha256": tensors_sha256(tensors)}
    data = {**made.model_dump(), "name": name, "members": [member], "licence": "CC0", **changes}
    card = Card.model_validate(data)
    save_weights(file, tensors, card)
    (entry / "card.json").write_text(card.to_json())
    (entry / "README.md").write_text(f"# {name}\n")
    return entry


class Handler(BaseHTTPRequestHandler):
    """Serves files with ranges, unless a fault takes over."""

    protocol_version = "HTTP/1.0"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Range")))
        path = re.sub(r"^https?://[^/]*", "", self.path)  # as a proxy is asked
        file = self.server.folder / path.lstrip("/")
        content = file.read_bytes() if file.is_file() else b""
        for part, fault in self.server.faults.items():
            if path.endswith(part):
                fault(self, content)
                return
        if not file.is_file():
            self.send_error(404)
            return
        self.send(content)

    def send(
        self, content: bytes, *, ranges: bool = True, most: int | None = None, **headers: str
    ) -> None:
        """The content, or the part that is asked for; at most so many bytes of it, then the connection ends."""
        start, asked = 0, re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and ranges:
            start = int(asked[1])
            self.send_response(206)
            end = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers.setdefault("Content-Range", end)
        else:
            self.send_response(200)
        headers.setdefault("Content-Length", str(len(content) - start))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content[start:][:most])

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """
    Attributes:
        faults: by the end of the path.
        seen: path and range of each request.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults: dict[str, Fault] = {}
        self.seen: list[tuple[str, str | None]] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges_of(self, name: str) -> list[str | None]:
        return [asked for path, asked in self.seen if path.endswith(name)]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
