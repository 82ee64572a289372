"""What a client gets for a bad request: a sentence, and nothing of the server."""

from __future__ import annotations

import gzip
import http.client
import io
import socket
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ctseg.errors import BadInput, DiskFull, FileProblem, MemoryTooSmall, RunFailed
from ctseg_serve import dicom_zip
from ctseg_serve.keys import Keys
from ctseg_serve.limits import Limits
from ctseg_serve.problems import problem_of, without_paths

SMALL = Limits(size=200_000)


@pytest.fixture(scope="module")
def good(make: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    return make.scan(path, make.array()).read_bytes()


@pytest.fixture(scope="module")
def slices(make: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make.series(tmp_path_factory.mktemp("ct"), make.array()).iterdir())


def check(server: Any, found: httpx.Response, status: int, words: str) -> None:
    """A problem in the one form, of which nothing remains in the server."""
    assert found.status_code == status, found.text
    assert found.headers["content-type"] == "application/problem+json"
    problem = found.json()
    assert problem["status"] == status
    assert words in problem["detail"]
    assert set(problem) <= {"title", "status", "detail", "hint", "job"}
    for word in (str(server.service.root), "/tmp", "Traceback", 'File "', "--", "ctseg "):
        assert word not in found.text
    assert server.left() == []
    assert not server.service.queue.jobs


def zip_of(
    entries: dict[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


def _link() -> bytes:
    info = zipfile.ZipInfo("ct/1.dcm")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zip_of({info: b"/etc/passwd"})


def _flagged(data: bytes) -> bytes:
    """Marked as encrypted, in both headers."""
    data = bytearray(data)
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def _larger(scan: bytes) -> bytes:
    """The header of a scan, with 300 x 300 x 300 voxels."""
    header = gzip.decompress(scan)[:352]
    return header[:42] + np.full(3, 300, "<i2").tobytes() + header[48:]


def _far(scan: bytes) -> bytes:
    """A scan whose voxels start at byte 300000."""
    content = gzip.decompress(scan)
    return content[:108] + np.array(3e5, "<f4").tobytes() + content[112:] + bytes(400_000)


DICOM = bytes(128) + b"DICM"
ZIPS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "slip": (lambda: zip_of({"../../evil.dcm": DICOM}), 422, "leads out of it"),
    "absolute": (lambda: zip_of({"/etc/evil.dcm": DICOM}), 422, "leads out of it"),
    "drive": (lambda: zip_of({"C:\\evil.dcm": DICOM}), 422, "leads out of it"),
    "link": (_link, 422, "leads out of it"),
    "bomb": (lambda: zip_of({"1.dcm": DICOM + bytes(10**7)}), 413, "0.0002 GB"),
    "many bombs": (lambda: zip_of({f"{i}.dcm": DICOM + bytes(3000) for i in range(99)}), 413, "0.0002"),
    "no DICOM": (lambda: zip_of({"a.txt": b"hello", "b/": b""}), 422, "no DICOM files"),
    "empty": (lambda: zip_of({}), 422, "no DICOM files"),
    "encrypted": (lambda: _flagged(zip_of({"1.dcm": DICOM})), 422, "encrypted"),
    "bzip2": (lambda: zip_of({"1.dcm": DICOM}, zipfile.ZIP_BZIP2), 422, "method"),
    "cut": (lambda: zip_of({"1.dcm": DICOM * 50})[:-30], 422, "damaged"),
    "only a start": (lambda: b"PK\x03\x04" + bytes(40), 422, "damaged"),
    "a damaged slice": (lambda: zip_of({"1.dcm": b"nothing"}), 422, "no DICOM files"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, serving: Any) -> Iterator[Any]:
    """One server for all requests that leave nothing behind."""
    with serving(tmp_path_factory.mktemp("shared"), limits=SMALL) as server:
        yield server


@pytest.mark.parametrize("name", ZIPS)
def test_zips_that_no_series_is(shared: Any, name: str) -> None:
    make, status, words = ZIPS[name]
    check(shared, httpx.post(f"{shared.url}/predict", content=make()), status, words)


def test_a_flipped_bit_in_a_zip_is_found(shared: Any, slices: list[Path]) -> None:
    body = bytearray(zip_of({file.name: file.read_bytes() for file in slices}, zipfile.ZIP_STORED))
    body[700] ^= 1
    check(shared, httpx.post(f"{shared.url}/predict", content=bytes(body)), 422, "CRC")


def test_a_missing_or_cut_slice_is_found(shared: Any, slices: list[Path]) -> None:
    files = {file.name: file.read_bytes() for file in slices}
    del files[slices[4].name]
    found = httpx.post(f"{shared.url}/predict", content=zip_of(files))
    check(shared, found, 422, "missing")
    files = {file.name: file.read_bytes() for file in slices}
    files[slices[4].name] = files[slices[4].name][:-50]
    found = httpx.post(f"{shared.url}/predict", content=zip_of(files))
    check(shared, found, 422, slices[4].name)


def test_a_list_of_millions_of_files_is_not_read(shared: Any, monkeypatch) -> None:
    monkeypatch.setattr(dicom_zip, "LARGEST_READ", 2**16)
    monkeypatch.setattr(dicom_zip, "_COPIED", 2**12)
    body = zip_of({f"{i:0100}": b"" for i in range(500)}, zipfile.ZIP_STORED)
    found = httpx.post(f"{shared.url}/predict", content=body)
    check(shared, found, 422, "list of files is too long")
    monkeypatch.setattr(dicom_zip, "MOST_FILES", 3)
    body = zip_of({f"{i}.dcm": DICOM for i in range(4)})
    check(shared, httpx.post(f"{shared.url}/predict", content=body), 413, "more than 3 files")


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda scan: b"", 400, "no body"),
        (lambda scan: b"hello", 415, "no kind"),
        (lambda scan: scan[:-20], 422, "scan.nii.gz"),
        (lambda scan: scan[:40], 422, "scan.nii.gz"),
        (lambda scan: gzip.compress(b"no scan" * 99), 422, "scan.nii.gz"),
        (lambda scan: gzip.decompress(scan)[:-9], 422, "scan.nii"),
        (lambda scan: gzip.decompress(scan)[:100], 422, "scan.nii"),
        (lambda scan: DICOM, 422, "scan.dcm"),
        (lambda scan: gzip.compress(_larger(scan) + bytes(54 * 10**6)), 413, "0.054 GB of voxels"),
        (lambda scan: gzip.compress(_far(scan)), 413, "0.000303 GB of voxels and bytes before them"),
    ],
)  # fmt: skip
def test_scans_that_cannot_be_read(
    shared: Any, good: bytes, change: Callable[[bytes], bytes], status: int, words: str
) -> None:
    check(shared, httpx.post(f"{shared.url}/predict", content=change(good)), status, words)


def test_values_that_are_no_numbers(make: Any, shared: Any, tmp_path: Path) -> None:
    array = make.array().astype(np.float32)
    array[2, 3, 4] = np.nan
    body = make.scan(tmp_path / "nan.nii.gz", array).read_bytes()
    check(shared, httpx.post(f"{shared.url}/predict", content=body), 422, "NaN")


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("label=ball", 400, "Unknown query parameter 'label'. Did you mean 'labels'?"),
        ("format=mha", 400, "query parameter format"),
        ("labels=bal", 422, "Did you mean 'ball'?"),
        ("labels=", 422, "No label is named"),
        ("format=seg.dcm", 422, "DICOM"),
        ("series=1.2.3", 422, "no option 'series'"),
        ("spacing=a", 422, "spacing"),
    ],
)
def test_wrong_parameters(shared: Any, good: bytes, query: str, status: int, words: str) -> None:
    check(shared, httpx.post(f"{shared.url}/predict?{query}", content=good), status, words)


def test_other_pages_and_methods(shared: Any) -> None:
    check(shared, httpx.get(f"{shared.url}/nothing"), 404, "no such page")
    check(shared, httpx.get(f"{shared.url}/predict"), 405, "no such method")


def test_uploads_beyond_the_limit(shared: Any, good: bytes) -> None:
    check(shared, httpx.post(f"{shared.url}/predict", content=bytes(300_000)), 413, "0.0002 GB")
    parts = (good if i == 0 else bytes(1000) for i in range(400))  # without a declared length
    check(shared, httpx.post(f"{shared.url}/predict", content=parts), 413, "0.0002 GB")


def test_a_seg_needs_the_package(shared: Any, good: bytes, monkeypatch) -> None:
    def none(path: Path) -> None:
        raise BadInput("no suffix")

    monkeypatch.setattr("ctseg_serve.predict.writer_format", none)
    found = httpx.post(f"{shared.url}/predict?format=seg.dcm", content=good)
    assert found.status_code == 422
    assert found.json()["detail"] == "This server does not write seg.dcm."


def test_an_engine_that_fails_is_told_of_in_the_log_alone(
    shared: Any, good: bytes, monkeypatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("ctseg_serve.app.predict", fail)
    found = httpx.post(f"{shared.url}/predict", content=good)
    check(shared, found, 500, "the cause is in the server's log")
    assert "secret" not in found.text
    log = "\n".join(shared.said)
    assert "ZeroDivisionError: secret" in log
    assert f"job {found.json()['job']}  500" in log


def test_a_slow_upload_is_given_up(serve: Any, good: bytes) -> None:
    server = serve(limits=Limits(idle_seconds=0.2))
    connection = http.client.HTTPConnection(*server.host, timeout=10)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(len(good)))
    connection.endheaders(good[:100])
    answer = connection.getresponse()
    assert answer.status == 408
    assert b"took too long" in answer.read()
    connection.close()
    server = serve(limits=Limits(seconds=0.3, idle_seconds=0.2))
    with socket.create_connection(server.host) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n")
        for byte in good[:40]:  # a drip
            client.sendall(bytes([byte]))
            time.sleep(0.05)
            if server.said:
                break
        assert client.recv(100).startswith(b"HTTP/1.1 408")
    assert server.left() == []


def test_keys(serve: Any, good: bytes, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    old, new = "0123456789abcdef", "fedcba9876543210-new"
    file.write_text(f"# two of them\n{old}\n\n  {new}\n")
    server = serve(keys=Keys.read(file))
    wrong = ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {old}"},
             {"Authorization": f"Bearer {old}x"}, {"Authorization": "Bearer"}, {"X-API-Key": old})  # fmt: skip
    for headers in wrong:
        found = httpx.post(f"{server.url}/predict", content=good, headers=headers)
        check(server, found, 401, "no key")
        assert found.headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{server.url}/metrics", headers=headers).status_code == 401
    assert not server.said  # nothing was received
    for key in (old, new):
        found = httpx.post(
            f"{server.url}/predict", content=good, headers={"Authorization": f"Bearer {key}"}
        )
        assert found.status_code == 200
    assert httpx.get(f"{server.url}/health/ready").status_code == 200
    assert old not in "".join(server.said)


@pytest.mark.parametrize("text", ["", "# none\n", "short\n", "0123456789abcdef\nshort"])
def test_files_of_keys_that_protect_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(BadInput, match="16 characters or more"):
        Keys.read(tmp_path / "keys")
    with pytest.raises(FileProblem, match="cannot be read"):
        Keys.read(tmp_path / "nothing")
    (tmp_path / "keys").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(BadInput, match="no text"):
        Keys.read(tmp_path / "keys")


def test_texts_lose_the_paths_of_the_server() -> None:
    folder = Path("/srv/scratch/.ctseg-serve-abcdefgh/1234")
    texts = {
        f"{folder}/scan.nii.gz is cut.": "scan.nii.gz is cut.",
        f"{folder} holds no scans.": "the upload holds no scans.",
        "'/opt/models/x/best.safetensors' differs": "'best.safetensors' differs",
        "values of 3 mm/px, 1/2 and n/a, at 10:30/11:30": "values of 3 mm/px, 1/2 and n/a, at 10:30/11:30",
        r"C:\Users\me\scan.nii is cut": "scan.nii is cut",
        "see https://example.org/a/b": "see https://example.org/a/b",
    }  # fmt: skip
    for text, expected in texts.items():
        assert without_paths(text, folder) == expected


def test_errors_of_the_engine_as_statuses() -> None:
    folder = Path("/scratch/1")
    cases = [
        (DiskFull("/scratch/1/x is full", needed=3), 507, "Try again later."),
        (MemoryTooSmall("needs --memory 3G"), 413, None),
        (RunFailed("boom at /opt/x"), 500, "Tell its operator the number of the job."),
        (BadInput("no", hint="Check the file.\nGive it: --option spacing=X,Y,Z (mm)"), 422,
         "Check the file.\nGive it: spacing=X,Y,Z (mm)"),
        (BadInput("no", hint="Look: ctseg data inspect\nUse --tile Z,Y,X or -o x"), 422, None),
    ]  # fmt: skip
    for error, status, hint in cases:
        problem = problem_of(error, folder)
        assert (problem.status, problem.hint) == (status, hint)
        assert "/" not in problem.detail and "--" not in problem.detail
