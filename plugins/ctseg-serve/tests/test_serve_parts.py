"""Notes in headers, metrics and scratch folders, without a server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from starlette.types import Message

from ctseg.errors import BadInput, CtsegError, FileProblem
from ctseg_serve.dicom_zip import unpack
from ctseg_serve.jobs import JobQueue
from ctseg_serve.limits import Limits
from ctseg_serve.metrics import Metrics
from ctseg_serve.problems import Problem
from ctseg_serve.scratch import scratch_root
from ctseg_serve.send import LONGEST_NOTES, MaskResponse, notes_header
from ctseg_serve.server import listen


def test_notes_travel_as_ascii_and_are_cut_with_a_word() -> None:
    notes = ["Voxels of 5 µm.\nA 2nd line", 'a "quote"']
    header = notes_header(notes)
    assert json.loads(header) == notes
    assert header.isascii() and header.isprintable()
    assert notes_header([]) == "[]"
    for many in (["word " * 900], ["é" * 900, "b", "c"], ["short"] * 900, ["a" * 1950, "b" * 1950]):
        header = notes_header(many)
        assert len(header) <= LONGEST_NOTES
        kept = json.loads(header)
        shown = [note for note in kept if not re.fullmatch(r"\d+ more", note)]
        told = int(kept[-1].split()[0]) if len(shown) < len(kept) else 0
        assert len(shown) + told == len(many)
        assert kept[-1] != many[-1]
        for note, whole in zip(shown, many, strict=False):
            assert whole.startswith(note.removesuffix(" ..."))


def test_a_client_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    sent: list[str] = []

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if len(sent) > 2:
            await asyncio.sleep(60)

    async def run() -> None:
        queue = JobQueue(tmp_path, Limits())
        job = queue.enter()
        path = job.folder / "mask.nii"
        path.write_bytes(bytes(3 * 2**20))
        limits = Limits(idle_seconds=0.05)
        response = MaskResponse(job, path, "application/octet-stream", {}, limits)
        assert response.headers["content-length"] == str(3 * 2**20)
        await response({"type": "http"}, None, send)  # type: ignore[arg-type]
        assert not queue.jobs
        queue.close()

    asyncio.run(run())
    assert sent == ["http.response.start", "http.response.body", "http.response.body"]
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_what_prometheus_reads() -> None:
    metrics = Metrics({"model": 'a "b"\\\n', "device": "cpu"})
    for seconds in (0.05, 0.3, 0.5, 9999):
        metrics.predicted(seconds)
    metrics.responded(200)
    text = metrics.text(waiting=2, running=1)
    line = re.compile(r'# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="(\\.|[^"\\])*",?)+\})? [\d.]+')
    assert all(line.fullmatch(one) for one in text.splitlines())
    assert text.endswith("\n")
    values = dict(one.rsplit(" ", 1) for one in text.splitlines() if not one.startswith("#"))
    assert 'ctseg_info{model="a \\"b\\"\\\\\\n",device="cpu"}' in values
    buckets = [int(v) for name, v in values.items() if "_bucket" in name]
    assert buckets == sorted(buckets)
    assert values['ctseg_prediction_seconds_bucket{le="0.5"}'] == "3"
    assert values['ctseg_prediction_seconds_bucket{le="500"}'] == "3"
    assert buckets[-1] == int(values["ctseg_prediction_seconds_count"]) == 4
    assert float(values["ctseg_prediction_seconds_sum"]) == pytest.approx(9999.85)


def test_damaged_zips_are_refused_whatever_is_damaged(tmp_path: Path) -> None:
    """Random bytes, cut and longer zips, with lists of files that lie: a problem or a plain error for each."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"ct/{number}.dcm", bytes(128) + b"DICM" + bytes(range(256)))
    # in the list, the lengths of name, extra field and comment
    nameless = whole.getvalue().replace(b"\x08\0\0\0\0\0", b"\0\0\0\0\x08\0")
    cases, refused = [nameless], 0
    rng = random.Random(0)
    for _ in range(400):
        data = bytearray(whole.getvalue())
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.choice((rng.randrange(len(data)), len(data) - rng.randrange(1, 250)))
            new = rng.choice((b"", b"\xff" * 4, bytes(4), rng.randbytes(3)))
            data[at : at + rng.choice((len(new), 0, 4))] = new
        cases.append(bytes(data))
    for number, case in enumerate(cases):
        (tmp_path / "a.zip").write_bytes(case)
        try:
            unpack(tmp_path / "a.zip", tmp_path / str(number), largest=10**6, check=lambda: None)
        except (CtsegError, Problem):
            refused += 1
    assert refused > 300
    assert {p.name for p in tmp_path.iterdir()} == {"a.zip", *map(str, range(401))}


def test_folders_of_killed_servers_are_removed(tmp_path: Path) -> None:
    """Not those of servers that run."""
    code = (
        "import sys, time; from pathlib import Path; from ctseg_serve.scratch import scratch_root\n"
        "with scratch_root(Path(sys.argv[1])) as root:\n"
        "    (root / 'scan.nii').write_bytes(b'x'); print(root, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        old = time.time() - 60
        os.utime(theirs, (old, old))
        with scratch_root(tmp_path) as mine:
            assert (theirs / "scan.nii").exists()
            assert mine.stat().st_mode & 0o077 == 0
        other.kill()
    assert (theirs / "scan.nii").exists()
    os.utime(theirs, (old, old))
    with scratch_root(tmp_path) as mine:
        assert [p.name for p in tmp_path.iterdir()] == [mine.name]
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileProblem, match="cannot be written"), scratch_root(tmp_path / "file"):
        pass
    with listen("127.0.0.1", 0) as taken, pytest.raises(BadInput, match="cannot listen"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(BadInput, match="--host"):
        listen("192.0.2.1", 0)
