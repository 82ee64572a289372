"""What goes wrong in preparation ends with the true cause, the case's name, and a store to go on with."""

from __future__ import annotations

import dataclasses
import errno
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import ctseg
from ctseg.data.pipeline import Pipeline
from ctseg.data.prepared_case import load_array
from ctseg.data.steps import NormaliseCase, Orient, Resample
from ctseg.data.store import Store
from ctseg.errors import BadInput, CtsegError, FileProblem, RunFailed
from ctseg.specs import Case, ImageRef
from ctseg.task import classes_task
from ctseg.temporary import STALE_SECONDS
from ctseg.volume.formats.companion_files import files_of
from ctseg.volume.volume import Volume
from tests.data.plain_batch import batch

TASK = classes_task({"organ": 1})
STEPS = [Orient(), Resample((1.0, 1.0, 1.0), order=1), NormaliseCase()]


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    out = []
    for index in range(6):
        rng = np.random.default_rng(index)
        shape = (6, 7, 8) if index != 3 else (24, 28, 32)  # one scan is larger than the others
        image = Volume.from_array(rng.normal(size=shape).astype(np.float32), spacing_xyz=(1, 1, 2))
        label = Volume.from_array((image.array > 0).astype(np.uint8), spacing_xyz=(1, 1, 2))
        paths = [tmp_path / f"{kind}_{index}.nii" for kind in ("image", "label")]
        for path, volume in zip(paths, (image, label), strict=True):
            ctseg.write(volume, path)
        out.append(Case(f"scan_{index}", (ImageRef(paths[0]),), ImageRef(paths[1])))
    return out


def store(tmp_path: Path) -> Store:
    return Store(Pipeline(STEPS), TASK, tmp_path / "store")


def stamps(tmp_path: Path) -> dict[str, int]:
    found = (tmp_path / "store").rglob("case.json")
    return {p.parent.name.rpartition("-")[0]: p.stat().st_mtime_ns for p in found}


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "store").rglob(".making*"))


def test_threads_prepare_as_one_does(cases, tmp_path):
    seen: list[str] = []
    many = store(tmp_path).prepare(cases, seen.append, workers=3)
    one = store(tmp_path / "one").prepare(cases, workers=1)
    assert sorted(seen) == [case.id for case in cases]
    assert [made.id for made in many] == [case.id for case in cases]
    for a, b in zip(many, one, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.target, b.target)
        np.testing.assert_array_equal(a.places, b.places)


FULL = """
import resource, signal, sys
from pathlib import Path
from ctseg.errors import CtsegError
sys.path.insert(0, sys.argv[1])
from test_store_failures import STEPS, TASK
from ctseg.data.pipeline import Pipeline
from ctseg.data.store import Store
from ctseg.data.prepared_case import load_array
from ctseg.specs import Case, ImageRef
folder = Path(sys.argv[2])
cases = [Case(f"scan_{i}", (ImageRef(folder / f"image_{i}.nii"),), ImageRef(folder / f"label_{i}.nii"))
         for i in range(6)]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    Store(Pipeline(STEPS), TASK, folder / "store").prepare(cases, workers=int(sys.argv[3]))
except CtsegError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_file_that_cannot_be_written_whole_leaves_a_store_to_go_on_with(cases, tmp_path):
    """The system refuses to let a file grow, as it does on a full disk, in the middle of an array."""
    made = subprocess.run(
        [sys.executable, "-c", FULL, str(Path(__file__).parent), str(tmp_path), "2"],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert made.stdout.startswith("FileProblem Case scan_3: The disk is full")
    assert "CTSEG_CACHE" in made.stdout
    before = stamps(tmp_path)
    assert {"scan_0", "scan_1"} <= set(before)
    assert "scan_3" not in before
    assert not leftovers(tmp_path)
    again = store(tmp_path).prepare(cases)
    assert len(again) == 6
    after = stamps(tmp_path)
    assert all(after[name] == when for name, when in before.items())  # kept as they were


@pytest.mark.parametrize("number", [errno.ENOSPC, getattr(errno, "EDQUOT", errno.EFBIG)])
def test_a_full_disk_is_named_as_such(cases, tmp_path, monkeypatch, number):
    class Full:
        def __init__(self, file):
            self.file, self.left = file, 200

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(number, os.strerror(number))
            return self.file.write(data)

    monkeypatch.setattr("ctseg.data.store._Stream", Full)
    with pytest.raises(FileProblem, match="Case scan_0: The disk is full") as raised:
        store(tmp_path).prepare(cases, workers=1)
    assert os.strerror(number) in str(raised.value)
    assert isinstance(raised.value.__cause__, OSError)
    assert not leftovers(tmp_path)


def test_a_file_deleted_meanwhile_is_named_and_the_rest_is_kept(cases, tmp_path):
    def on_case(name: str) -> None:
        if name == "scan_1":
            cases[4].images[0].path.unlink()

    with pytest.raises(BadInput, match=r"Case scan_4: .*image_4\.nii does not exist"):
        store(tmp_path).prepare(cases, on_case, workers=1)
    assert sorted(stamps(tmp_path)) == ["scan_0", "scan_1", "scan_2", "scan_3"]
    label = ctseg.read(cases[4].label.path)
    ctseg.write(Volume(label.array.astype(np.float32), label.geometry), cases[4].images[0].path)
    assert len(store(tmp_path).prepare(cases, workers=2)) == 6


def test_a_prepared_scan_survives_its_file(cases, tmp_path):
    """What was prepared is drawn from whatever happens to the data set meanwhile; the next run says what is gone."""
    made = store(tmp_path).prepare(cases)
    cases[0].images[0].path.unlink()
    batch(made, (4, 4, 4), size=8, rule=0.5, seed=0, step=0)
    with pytest.raises(BadInput, match=r"Case scan_0: .*does not exist"):
        store(tmp_path).prepare(cases)


def test_whatever_is_raised_keeps_its_name(cases, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a step went wrong")

    monkeypatch.setattr(NormaliseCase, "image", broken)
    with pytest.raises(
        RunFailed, match=r"Case scan_\d .*ZeroDivisionError: a step went wrong"
    ) as raised:
        store(tmp_path).prepare(cases, workers=3)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_an_interrupt_keeps_what_is_finished(cases, tmp_path):
    def on_case(name: str) -> None:
        raise KeyboardInterrupt

    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            store(tmp_path / str(workers)).prepare(cases, on_case, workers=workers)
        assert 1 <= len(stamps(tmp_path / str(workers))) < 6
        assert not leftovers(tmp_path / str(workers))
        assert threading.active_count() < 10
        assert len(store(tmp_path / str(workers)).prepare(cases, workers=workers)) == 6


def test_a_damaged_entry_is_made_again(cases, tmp_path):
    store(tmp_path).prepare(cases)
    images = sorted((tmp_path / "store").rglob("image.npy"))
    images[0].write_bytes(images[0].read_bytes()[:200])
    images[1].unlink()
    note = images[2].parent / "case.json"
    note.write_text(note.read_text()[:20])
    again = store(tmp_path).prepare(cases)
    assert all(np.isfinite(made.image).all() for made in again)
    json.loads(note.read_text())


def test_what_a_killed_run_left_is_removed_in_time(cases, tmp_path):
    first = store(tmp_path)
    first.prepare(cases[:1])
    old, new = (first.folder / name for name in (".making-old", ".making-new"))
    for folder in (old, new):
        folder.mkdir()
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    store(tmp_path).prepare(cases[:1])
    assert not old.exists()
    assert new.exists()  # another process may be at work on it


def test_a_changed_slice_of_a_folder_is_noticed(tmp_path):
    from ctseg.data.store import fingerprint

    folder = tmp_path / "slices"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.tif").write_bytes(b"x")
    case = Case("a", (ImageRef(folder),))
    before = fingerprint(case)
    assert fingerprint(case) == before
    os.utime(folder / "1.tif", ns=(5, 5))
    assert fingerprint(case) != before


def test_a_prepared_case_travels_by_name(cases, tmp_path):
    made = store(tmp_path).prepare(cases)[3]
    sent = pickle.dumps(made)
    assert len(sent) < 10_000 < made.image.nbytes
    there = pickle.loads(sent)
    np.testing.assert_array_equal(there.image, made.image)
    assert there.applied == made.applied


def test_a_store_that_cannot_be_made_is_refused(cases, tmp_path):
    (tmp_path / "store").write_text("a file, no folder")
    with pytest.raises(CtsegError, match="store"):
        store(tmp_path).prepare(cases)


def test_an_id_may_be_a_path(cases, tmp_path):
    named = dataclasses.replace(cases[0], id="study/series 1")
    made = store(tmp_path).prepare([named])[0]
    assert made.id == "study/series 1"
    assert made.folder.parent.parent == tmp_path / "store"
    assert store(tmp_path).prepare([named])[0].folder == made.folder


def test_a_whole_store_may_be_read_only(cases, tmp_path, monkeypatch):
    store(tmp_path).prepare(cases[:2])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert len(store(tmp_path).prepare(cases[:2])) == 2


def test_what_another_process_made_meanwhile_stays(cases, tmp_path, monkeypatch):
    """Two folds trained at once prepare the same cases; what one has opened must not go."""
    from ctseg.data import store as store_module

    save = store_module.save_array
    others: list[int] = []

    def slower(path: Path, array: np.ndarray) -> None:
        save(path, array)
        if path.name == "places.npy" and not others:
            others.append(0)
            made = store(tmp_path).case(cases[0])
            assert made.folder is not None
            others.append((made.folder / "image.npy").stat().st_ino)

    monkeypatch.setattr(store_module, "save_array", slower)
    mine = store(tmp_path).case(cases[0])
    assert mine.folder is not None
    assert (mine.folder / "image.npy").stat().st_ino == others[1]
    assert not leftovers(tmp_path)


MANY = """
import resource, sys
from pathlib import Path
from ctseg.errors import CtsegError
sys.path.insert(0, sys.argv[1])
from test_store_failures import STEPS, TASK
from ctseg.data.pipeline import Pipeline
from ctseg.data.store import Store
from ctseg.data.prepared_case import load_array
from ctseg.specs import Case, ImageRef
folder = Path(sys.argv[2])
refs = ImageRef(folder / "image_0.nii"), ImageRef(folder / "label_0.nii")
cases = [Case(f"scan_{i}", (refs[0],), refs[1]) for i in range(60)]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[3])))
try:
    print(len(Store(Pipeline(STEPS), TASK, folder / "store").prepare(cases, workers=1)))
except CtsegError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the number of open files")
@pytest.mark.parametrize(("hard", "says"), [(4096, "60"), (64, "too many files")])
def test_more_cases_than_files_may_be_open(cases, tmp_path, hard, says):
    """Each memory map keeps its file open; shells allow 256 files on macOS and 1024 on Linux."""
    made = subprocess.run(
        [sys.executable, "-c", MANY, str(Path(__file__).parent), str(tmp_path), str(hard)],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert says in made.stdout
    assert hard > 64 or "ulimit -n" in made.stdout


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_others_may_read_what_was_prepared(cases, tmp_path):
    """A laboratory shares one store; what one user prepared must not be closed to the others."""
    before = os.umask(0o022)
    try:
        made = store(tmp_path).case(cases[0])
    finally:
        os.umask(before)
    assert made.folder is not None
    modes = {p: p.stat().st_mode & 0o777 for p in (made.folder, *made.folder.iterdir())}
    assert {oct(mode & 0o044) for mode in modes.values()} == {oct(0o044)}
    assert oct(modes[made.folder]) == oct(0o755)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxels_beside_their_header_that_change_are_prepared_anew(tmp_path, suffix):
    for seed, kind in enumerate(("image", "label")):
        array = np.random.default_rng(seed).integers(0, 2, (6, 7, 8)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{kind}{suffix}"))
    case = Case(
        "a", (ImageRef(tmp_path / f"image{suffix}"),), ImageRef(tmp_path / f"label{suffix}")
    )
    assert store(tmp_path).case(case).target.any()
    (data,) = tmp_path.glob("label*raw")
    data.write_bytes(bytes(data.stat().st_size))  # the header stays as it is
    os.utime(data, ns=(1, 1))
    assert not store(tmp_path).case(case).target.any()


def test_headers_of_many_files_stand_for_all_in_their_folder(tmp_path):
    for name in ("a.mhd", "s1.raw", "s2.raw"):
        (tmp_path / name).write_text("ObjectType = Image\nElementDataFile = s%d.raw 1 2 1\n")
    assert [file.name for file in files_of(tmp_path / "a.mhd")] == ["a.mhd", "s1.raw", "s2.raw"]
    assert files_of(tmp_path / "s1.raw") == [tmp_path / "s1.raw"]
    (tmp_path / "a.mhd").write_bytes(b"no header")
    assert files_of(tmp_path / "a.mhd") == [tmp_path / "a.mhd"]


def test_arrays_are_opened_by_several_threads_at_once(tmp_path):
    """Python 3.11.7 fails to parse a header where another thread comes in between."""
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3, 4, 5), np.float32))
    failed: list[Exception] = []

    def load() -> None:
        try:
            for _ in range(150):
                load_array(path, mapped=True)
        except Exception as error:
            failed.append(error)

    def pause(phase: str, info: object) -> None:
        time.sleep(0)  # lets the other thread in, wherever the collector happens to run

    threads = [threading.Thread(target=load) for _ in range(2)]
    before = gc.get_threshold()
    gc.callbacks.append(pause)
    gc.set_threshold(7)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(pause)
    assert failed == []
