"""Models from a web server: whole and verified, or refused; the zoo is as it was then."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ctseg.errors import BadInput, CtsegError, NameClash, UnknownName
from ctseg.zoo.remote import download, streams
from ctseg.zoo.remote.fetch import FetchOptions, fetch
from ctseg.zoo.resolve import resolve_model
from ctseg.zoo.serve_index import Served, serve_index
from ctseg.zoo.sources import Source
from ctseg.zoo.store import read_index
from ctseg.zoo.verify import verify
from tests.zoo.remote.server import FILE, Handler, Server, make_entry, serving

NAME = "unet3d.small_v1"


def get(server: Server | str, served: Served | None = None, name: str = NAME, **more: Any) -> Path:
    """Fetch, with the index pinned: plain http has no other protection."""
    url = server if isinstance(server, str) else server.url
    pin = {"pin": served.sha256} if served is not None else {}
    return fetch(name, FetchOptions(sources=(url,), **pin, **more)).folder


def partial(zoo: Path) -> list[Path]:
    return sorted(zoo.glob(f".fetch-*/{FILE}"))


def test_a_model_is_fetched_and_sound(
    server: Server, served: Served, own_zoo: Path, zoo: Path
) -> None:
    told: list[tuple[float, float]] = []
    folder = get(server, served, on_bytes=lambda *counts: told.append(counts))
    assert folder == own_zoo / NAME
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
        f.name: f.read_bytes() for f in (zoo / NAME).iterdir()
    }
    assert [(check.sound, check.notes) for check in verify()] == [(True, ())]
    assert told[-1][0] == told[-1][1] == served.index.entries[NAME].size
    assert resolve_model("small").name == NAME  # the alias came along
    assert sorted(f.name for f in own_zoo.iterdir()) == ["index.json", NAME]
    before = len(server.seen)
    get(server, served, name="small")
    assert [path for path, _ in server.seen[before:]] == ["/index.json"]  # nothing is fetched twice


def test_a_cut_download_is_continued(server: Server, served: Served, own_zoo: Path) -> None:
    """The server ends after some bytes each time; only the rest is asked for."""
    size = served.index.entries[NAME].files[FILE].bytes
    part = size // 5
    server.faults[FILE] = lambda handler, content: handler.send(content, most=part)
    with pytest.raises(CtsegError, match=f"ends after {3 * part} of {size} bytes"):
        get(server, served)
    assert server.ranges_of(FILE) == [None, f"bytes={part}-", f"bytes={2 * part}-"]
    assert not (own_zoo / NAME).exists()
    assert partial(own_zoo)[0].stat().st_size == 3 * part
    server.faults.clear()
    get(server, served)
    assert server.ranges_of(FILE)[3:] == [f"bytes={3 * part}-"]
    assert server.ranges_of("card.json") == [None]  # what was complete is not asked for again
    assert verify()[0].sound and not partial(own_zoo)


def test_a_server_without_ranges_starts_anew(server: Server, served: Served) -> None:
    size = served.index.entries[NAME].files[FILE].bytes
    server.faults[FILE] = lambda handler, content: handler.send(
        content, ranges=False, most=None if handler.headers.get("Range") else size // 2
    )
    assert (get(server, served) / FILE).stat().st_size == size
    assert server.ranges_of(FILE) == [None, f"bytes={size // 2}-"]


def _flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda h, c: h.send(_flipped(c)), "another checksum"),
        (lambda h, c: h.send(c + b"more"), "and the index says"),
        (lambda h, c: h.send(c + b"more", **{"Content-Length": str(len(c))}), None),
        (lambda h, c: h.send(c[:-9]), "and the index says"),
        (lambda h, c: h.send(c, **{"Content-Length": "x" * 9}), "declares 'xxxxxxxxx' bytes"),
        (lambda h, c: h.send(c, **{"Content-Length": str(10**15)}), f"has {10**15} bytes"),
        (lambda h, c: h.send(c, **{"Content-Encoding": "gzip"}), "packs"),
        (lambda h, c: h.send_error(404), "answers 404"),
        (lambda h, c: h.send_error(503), "answers 503"),
        (lambda h, c: h.wfile.write(b"nonsense\r\n\r\n"), "nonsense"),
        (lambda h, c: None, "without response"),
    ],
)  # fmt: skip
def test_other_bytes_than_those_of_the_index(
    server: Server, served: Served, own_zoo: Path, fault: Any, words: str | None
) -> None:
    server.faults[FILE] = fault
    if words is None:  # bytes after the declared length never reach the reader
        assert verify([get(server, served).name])[0].sound
        return
    with pytest.raises(CtsegError, match=words):
        get(server, served)
    assert not (own_zoo / NAME).exists()


def test_a_longer_stream_of_unknown_length(server: Server, served: Served, own_zoo: Path) -> None:
    def endless(handler: Handler, content: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content + b"more")

    server.faults[FILE] = endless
    with pytest.raises(CtsegError, match="longer than the"):
        get(server, served)
    assert not partial(own_zoo)


def test_damage_in_the_part_that_was_there(server: Server, served: Served, own_zoo: Path) -> None:
    """The file is fetched once more from its beginning."""
    size = served.index.entries[NAME].files[FILE].bytes
    server.faults[FILE] = lambda handler, content: handler.send(content, most=size // 5)
    with pytest.raises(CtsegError):
        get(server, served)
    (file,) = partial(own_zoo)
    file.write_bytes(_flipped(file.read_bytes()))
    server.faults.clear()
    get(server, served)
    assert server.ranges_of(FILE)[-2:] == [f"bytes={3 * (size // 5)}-", None]
    file = own_zoo / NAME / FILE
    assert (
        hashlib.sha256(file.read_bytes()).hexdigest()
        == served.index.entries[NAME].files[FILE].sha256
    )


def _to(target: str) -> Any:
    def redirect(handler: Handler, content: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", target.format(port=handler.server.server_port))
        handler.end_headers()

    return redirect


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/passwd", "redirects to 'file:///etc/passwd'"),
        ("ftp://127.0.0.1/x", "only http or https"),
        ("data:,x", "only http or https"),
        ("/small.safetensors", "circle"),
        ("http://127.0.0.1:{port}/a/small.safetensors", "circle"),
    ],
)  # fmt: skip
def test_redirects_that_lead_astray(
    server: Server, served: Served, own_zoo: Path, target: str, words: str
) -> None:
    server.faults[FILE] = _to(target)
    with pytest.raises(CtsegError, match=words) as found:
        get(server, served)
    assert found.value.message.count(FILE) == 1 + target.count(FILE) * ("circle" not in words)
    assert not (own_zoo / NAME).exists()


def test_a_redirect_to_a_web_address_is_followed(server: Server, served: Served) -> None:
    shutil.copy(server.folder / NAME / FILE, server.folder / "moved")
    server.faults[FILE] = _to("/moved")
    get(server, served)
    assert ("/moved", None) in server.seen


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_the_body_of_a_redirect_is_not_read(server: Server, served: Served, code: int) -> None:
    sent, ended = [0], threading.Event()

    def redirect(handler: Handler, content: bytes) -> None:
        handler.send_response(code)
        handler.send_header("Location", "/moved")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1024):
                sent[0] += handler.wfile.write(bytes(2**16))
        ended.set()

    shutil.copy(server.folder / NAME / FILE, server.folder / "moved")
    server.faults[FILE] = redirect
    get(server, served)
    assert ended.wait(30) and sent[0] < 2**25  # what the buffers of both sockets hold at most


def test_no_redirect_from_https_to_http() -> None:
    request = streams.urllib.request.Request("https://host/zoo/index.json")
    with pytest.raises(streams.SourceProblem, match="only https is followed"):
        streams._Redirects().http_error_302(
            request, io.BytesIO(), 302, "Found", {"location": "http://host/x"}
        )


def test_a_server_that_hangs_is_given_up(
    server: Server, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "TIMEOUT_S", 0.05)

    def hang(handler: Handler, content: bytes) -> None:
        handler.server.ended.wait()

    def hang_halfway(handler: Handler, content: bytes) -> None:
        handler.send(content, most=100)
        handler.wfile.flush()
        handler.server.ended.wait()

    for fault in (hang, hang_halfway):
        server.faults[FILE] = fault
        with pytest.raises(CtsegError, match=r"no answer for 0\.05 s"):
            get(server, served)


def test_a_server_that_drips_is_given_up(
    server: Server, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL_S", 0.0)
    server.faults["index.json"] = lambda handler, content: handler.send(content)
    with pytest.raises(CtsegError, match="bytes came in"):
        get(server, served)


def test_the_next_source_serves_what_the_first_one_damages(
    server: Server, served: Served, zoo: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    second = Path(shutil.copytree(zoo, tmp_path / "second"))
    server.faults[FILE] = lambda handler, content: handler.send(_flipped(content))
    sources = ("http://127.0.0.1:1/zoo", server.url, str(second))
    options = FetchOptions(sources=sources, pin=served.sha256, on_note=notes.append)
    assert fetch(NAME, options).folder.is_dir()
    assert verify()[0].sound
    assert len(notes) == 1 and "127.0.0.1:1" in notes[0]


def test_plain_http_needs_a_pin(server: Server, served: Served, own_zoo: Path) -> None:
    with pytest.raises(CtsegError, match="not protected") as found:
        get(server)
    assert "--pin" in str(found.value)
    with pytest.raises(CtsegError, match="that --pin names"):
        get(server, pin="0" * 64)
    with pytest.raises(BadInput, match="no SHA-256"):
        get(server, pin="abc")
    assert not own_zoo.exists()
    assert get(server, pin=served.index.entries[NAME].digest).is_dir()  # of the model alone


def test_both_pins_must_hold(server: Server, served: Served, own_zoo: Path, tmp_path: Path) -> None:
    listed = tmp_path / "config" / "sources.toml"
    listed.parent.mkdir()
    listed.write_text(f'[[source]]\nurl = "{server.url}"\npin = "{served.sha256}"\n')
    with pytest.raises(CtsegError, match="that --pin names"):
        get(server, pin="0" * 64)
    assert not own_zoo.exists()
    assert get(server).is_dir()


def test_chained_addresses_are_no_way_around_the_pin() -> None:
    urls = {
        "simplecache::http://h/zoo": False, "http://h/zoo": False, "ftp://h/zoo": False,
        "simplecache::https://h/zoo": True, "sftp://h/zoo": True, "/http/zoo": True,
    }  # fmt: skip
    assert {url: Source(url=url).protected for url in urls} == urls


def test_the_pin_of_a_model_is_what_sha256sum_prints(served: Served, zoo: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum")
    line = "LC_ALL=C sha256sum * | sha256sum"
    told = subprocess.run(line, shell=True, cwd=zoo / NAME, capture_output=True, text=True)
    assert told.stdout.split()[0] == served.index.entries[NAME].digest


def test_an_index_that_changed_since_it_was_pinned(server: Server, served: Served) -> None:
    make_entry(server.folder, "unet3d.other")
    serve_index(server.folder)
    with pytest.raises(CtsegError, match="that --pin names"):
        get(server, served)


def test_a_folder_and_a_bucket_are_sources_too(zoo: Path, served: Served, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(zoo), "/bucket/zoo", recursive=True)
    for source in (str(zoo), zoo.as_uri(), "memory://bucket/zoo"):
        folder = get(source, zoo=tmp_path / "second" / str(len(source)))
        assert (folder / FILE).read_bytes() == (zoo / NAME / FILE).read_bytes()
    with pytest.raises(CtsegError, match=r"memory://nowhere/index\.json"):
        get("memory://nowhere")
    with pytest.raises(CtsegError, match="nosuch"):
        get("nosuch://bucket/zoo")


@pytest.mark.parametrize("linked", ["", FILE])
def test_links_in_a_folder_are_refused(
    zoo: Path, served: Served, tmp_path: Path, linked: str
) -> None:
    place = zoo / NAME / linked
    place.rename(tmp_path / "second")
    place.symlink_to(tmp_path / "second")
    with pytest.raises(CtsegError, match="is a link"):
        get(str(zoo))
    with pytest.raises(CtsegError, match="is a link"):
        serve_index(zoo)


def test_the_zoo_keeps_its_own_model(server: Server, served: Served, own_zoo: Path) -> None:
    make_entry(own_zoo, NAME, summary="My own.")
    before = (own_zoo / NAME / "card.json").read_bytes()
    with pytest.raises(NameClash, match="already"):
        get(server, served)
    server.faults[FILE] = lambda handler, content: handler.send(_flipped(content))
    with pytest.raises(CtsegError, match="checksum"):
        get(server, served, overwrite=True)
    assert (own_zoo / NAME / "card.json").read_bytes() == before
    server.faults.clear()
    get(server, served, overwrite=True)
    assert verify()[0].sound and (own_zoo / NAME / "card.json").read_bytes() != before


def test_too_large_models_and_full_disks(
    server: Server, served: Served, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=r"kB; 1\.0 kB are allowed"):
        get(server, served, max_bytes=1000)
    assert not own_zoo.exists()
    usage = shutil.disk_usage(own_zoo.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(CtsegError, match="has room for 0 MiB"):
        get(server, served)


def test_a_model_comes_with_its_coarse_model(zoo: Path, own_zoo: Path) -> None:
    make_entry(zoo, "unet3d.fine_v1", stages=[{"model": NAME}])
    served = serve_index(zoo)
    with pytest.raises(BadInput, match="no checksum is pinned"):
        get(str(zoo), name="unet3d.fine", pin=served.index.entries["unet3d.fine_v1"].digest)
    get(str(zoo), served, name="unet3d.fine")
    assert sorted(f.name for f in own_zoo.glob("unet3d.*")) == ["unet3d.fine_v1", NAME]


def test_coarse_models_in_a_circle(zoo: Path, own_zoo: Path) -> None:
    make_entry(zoo, "unet3d.a", stages=[{"model": "unet3d.b"}])
    make_entry(zoo, "unet3d.b", stages=[{"model": "unet3d.a"}])
    serve_index(zoo)
    with pytest.raises(CtsegError, match="circle"):
        get(str(zoo), name="unet3d.a")
    assert not list(own_zoo.glob("unet3d.*"))


def test_a_card_of_another_name(zoo: Path, own_zoo: Path) -> None:
    (zoo / NAME).rename(zoo / "unet3d.big_v1")
    serve_index(zoo)
    with pytest.raises(CtsegError, match=f"calls it '{NAME}'"):
        get(str(zoo), name="unet3d.big")
    assert not list(own_zoo.glob("unet3d.*"))


def test_unknown_names_come_with_the_nearest(server: Server, served: Served) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'small'"):
        get(server, served, name="smal")


def test_the_proxy_of_the_environment_is_used(
    server: Server, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    get("http://zoo.invalid", served)
    assert server.seen[0][0] == "http://zoo.invalid/index.json"


def test_another_process_at_work_is_waited_for(
    server: Server, served: Served, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = own_zoo / f".fetch-{NAME}-{served.index.entries[NAME].digest[:16]}"
    folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(descriptor))
    notes: list[str] = []
    get(server, served, on_note=notes.append)
    assert "Another process" in notes[0]


KILLED = """
import sys, os, signal
from ctseg.zoo.remote import fetch
def kill(done, total):
    if done > total * 0.6: os.kill(os.getpid(), signal.SIGKILL)
url, pin = sys.argv[1:]
fetch.fetch("small", fetch.FetchOptions(sources=(url,), pin=pin, on_bytes=kill))
"""


def test_a_killed_process_leaves_what_the_next_one_continues(
    zoo: Path, own_zoo: Path, tmp_path: Path
) -> None:
    big = os.urandom(3_000_000)
    (zoo / NAME / "notes.txt").write_bytes(big)
    served = serve_index(zoo, aliases={"small": NAME})
    with serving(zoo) as server:
        ended = subprocess.run([sys.executable, "-c", KILLED, server.url, served.sha256])
        assert ended.returncode == -9
        (file,) = own_zoo.glob(".fetch-*/notes.txt")
        have = file.stat().st_size
        assert 1_000_000 < have < 3_000_000 and not (own_zoo / NAME).exists()
        get(server, served)
        assert server.ranges_of("notes.txt") == [None, f"bytes={have}-"]
    assert (own_zoo / NAME / "notes.txt").read_bytes() == big and verify()[0].sound


def test_interrupted_downloads_of_long_ago_go(
    server: Server, served: Served, own_zoo: Path
) -> None:
    old = own_zoo / ".fetch-unet3d.old-0"
    old.mkdir(parents=True)
    os.utime(old, (1, 1))
    get(server, served)
    assert not old.exists()


def test_the_index_of_the_zoo_takes_over_what_is_said_of_the_model(
    zoo: Path, own_zoo: Path
) -> None:
    make_entry(zoo, "unet3d.small_v2")
    serve_index(zoo, deprecate={NAME: "unet3d.small_v2"}, reason="it mixes left and right")
    notes: list[str] = []
    get(str(zoo), name=NAME, on_note=notes.append)
    sentence = f"{NAME} is deprecated: it mixes left and right. Use unet3d.small_v2 instead."
    assert notes == [sentence]
    entry = json.loads((own_zoo / "index.json").read_text())["entries"][NAME]
    assert entry["deprecated"]["successor"] == "unet3d.small_v2"
    with pytest.warns(UserWarning, match="mixes left and right"):
        resolve_model(NAME)


def test_an_alias_moves_only_for_who_asks_for_it(zoo: Path, own_zoo: Path) -> None:
    serve_index(zoo, aliases={"small": NAME})
    get(str(zoo), name="small")
    make_entry(zoo, "unet3d.other_v1")
    serve_index(zoo, aliases={"small": "unet3d.other_v1", "tiny": "unet3d.other_v1"})
    notes: list[str] = []
    get(str(zoo), name="unet3d.other_v1", on_note=notes.append)
    assert read_index(own_zoo).aliases == {"small": NAME, "tiny": "unet3d.other_v1"}
    assert len(notes) == 1 and f"'small' still stands for {NAME}" in notes[0]
    get(str(zoo), name="small")
    assert read_index(own_zoo).aliases["small"] == "unet3d.other_v1"
