"""Scans read patch by patch from their files."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import ctseg
from ctseg.config import TaskConfig
from ctseg.data.lazy import LazyArray
from ctseg.data.pipeline import Pipeline
from ctseg.data.rng import SAMPLE, generator
from ctseg.data.sampling import Rule, draw
from ctseg.data.steps import (
    Clip,
    Crop,
    Normalise,
    NormaliseCase,
    OnValues,
    Orient,
    Resample,
    Rescale,
    RescaleCase,
)
from ctseg.data.store import Store
from ctseg.engine.training.validate import validate
from ctseg.errors import BadInput, ConfigError, CtsegError, GeometryMismatch
from ctseg.specs import Case, ImageRef, Label, Task
from ctseg.task import classes_task
from ctseg.volume.volume import Volume
from tests.data.plain_batch import batch
from tests.engine.small_model import small_model

TASK = classes_task({"fibre": 1, "pore": 2}, ignore=9)
STEPS = [
    Orient(),
    Clip((-2.0,), (2.0,)),
    Normalise((0.1,), (0.7,)),
    NormaliseCase(),
    Rescale(-3, 3),
]


@dataclasses.dataclass(frozen=True)
class LessItsNeighbours(OnValues):
    """A plugin's step of which a patch cannot be made from that patch."""

    kind = "less_its_neighbours"
    local = False

    def image(self, image_czyx, geometry, record):
        return image_czyx - np.roll(image_czyx, 1, 1)


@dataclasses.dataclass(frozen=True)
class LessItsMiddle(OnValues):
    """A plugin's step that looks at one place of the scan, and so cannot find it in samples."""

    kind = "less_its_middle"
    fits = True

    def fit(self, image_czyx, geometry):
        return {"middle": float(image_czyx[(0, *(n // 2 for n in image_czyx.shape[1:]))])}

    def image(self, image_czyx, geometry, record):
        return image_czyx - record["middle"]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(18, 21, 24)).astype(np.float32)
    label = rng.integers(0, 3, raw.shape).astype(np.uint8)
    label[3] = 9
    valid = np.ones(raw.shape, np.uint8)
    valid[:, :2] = 0
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        for name, array in (("raw", raw), ("label", label), ("mask", valid), ("weight", raw**2)):
            file.create_dataset(name, data=array, chunks=(4, 8, 8), compression="gzip")
        file["raw"].attrs["element_size_um"] = (2.0, 1.0, 1.0)
    refs = {
        name: ImageRef(tmp_path / "scan.h5", {"dataset": f"/{name}"})
        for name in ("raw", "label", "mask", "weight")
    }
    return Case("a", (refs["raw"],), refs["label"], refs["weight"], refs["mask"])


def store(tmp_path: Path, mode: str, steps=None) -> Store:
    return Store(Pipeline(steps or STEPS), TASK, tmp_path / f"store-{mode}", mode)


def test_lazy_equals_copied(case, tmp_path):
    copied, read = (store(tmp_path, mode).case(case) for mode in ("store", "lazy"))
    assert read.lazy
    assert not copied.lazy
    assert read.image.shape == copied.image.shape
    assert read.image.nbytes == copied.image.nbytes
    np.testing.assert_allclose(np.asarray(read.image), copied.image, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(read.target), copied.target)
    np.testing.assert_array_equal(read.places, copied.places)
    assert read.applied.target == copied.applied.target
    options = {"size": 8, "rule": Rule(labels=((0, 0.2), (2, 0.8))), "seed": 3, "step": 5}
    for one, two in zip(
        batch([read], (6, 30, 8), **options, margin_zyx=(1, 1, 1)),
        batch([copied], (6, 30, 8), **options, margin_zyx=(1, 1, 1)),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert not list((tmp_path / "store-lazy").rglob("image.npy"))
    for which in (read, copied):  # as they travel to another process
        there = pickle.loads(pickle.dumps(which))
        np.testing.assert_array_equal(there.image[:, 2:5, 3:9, 1:4], which.image[:, 2:5, 3:9, 1:4])
    assert len(pickle.dumps(copied)) < 5000  # by name, not by value


def test_a_validation_reads_a_lazy_case_in_parts(case, tmp_path, monkeypatch):
    def whole(self, dtype=None, copy=None):
        raise AssertionError("all of the scan was read at once")

    monkeypatch.setattr(LazyArray, "__array__", whole)
    model = small_model(task=TaskConfig.of(TASK)).model
    reports = []
    for mode in ("store", "lazy"):
        ready = store(tmp_path, mode, STEPS[:3]).case(case)
        assert ready.lazy == (mode == "lazy")
        reports.append(validate(model, [case], [ready]).to_json())
    assert reports[0] == reports[1]


def test_the_survey_is_kept_until_the_file_changes(case, tmp_path, monkeypatch):
    store(tmp_path, "lazy").case(case)
    calls = []
    monkeypatch.setattr("ctseg.data.lazy_survey.survey", lambda *a: calls.append(a))
    store(tmp_path, "lazy").case(case)
    assert not calls
    monkeypatch.undo()
    os.utime(case.images[0].path, ns=(1, 1))
    store(tmp_path, "lazy").case(case)
    assert len(list((tmp_path / "store-lazy").rglob("case.json"))) == 2


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Resample((0.002, 0.002, 0.002)), "'resample' moves voxels"),
        (Crop(), "'crop' crops"),
        (Orient("RAS"), "'orient' moves voxels"),
        (NormaliseCase(nonzero=True, filled=True), "needs the whole scan"),
        (LessItsNeighbours(), "'less_its_neighbours' needs the whole scan"),
        (LessItsMiddle(), "'less_its_middle' needs the whole scan"),
    ],
)
def test_steps_that_need_more_than_a_patch_are_refused_with_the_mend(case, tmp_path, step, words):
    with pytest.raises(ConfigError, match=words) as raised:
        store(tmp_path, "lazy", [step]).case(case)
    assert "data.prepare=store" in str(raised.value)
    assert not store(tmp_path, "auto", [step]).case(case).lazy


def test_files_that_cannot_be_read_by_region_are_refused(tmp_path):
    volume = Volume.from_array(np.ones((4, 5, 6), np.int16))
    ctseg.write(volume, tmp_path / "a.nii.gz")
    ref = ImageRef(tmp_path / "a.nii.gz")
    with pytest.raises(ConfigError, match="by region"):
        store(tmp_path, "lazy").case(Case("a", (ref,), ref))


def test_auto_goes_by_size(case, tmp_path, monkeypatch):
    assert not store(tmp_path, "auto").case(case).lazy
    monkeypatch.setattr("ctseg.data.store.LARGE_BYTES", 1000)
    assert not store(tmp_path, "auto").case(case).lazy  # it is in the store already
    changed = [*STEPS, Rescale(-1, 1, 0, 1)]
    assert store(tmp_path, "auto", changed).case(case).lazy


def test_lazy_is_lazy_even_where_a_copy_lies(case, tmp_path):
    folder = tmp_path / "store"
    assert not Store(Pipeline(STEPS), TASK, folder, "store").case(case).lazy
    assert Store(Pipeline(STEPS), TASK, folder, "lazy").case(case).lazy


def test_no_room_on_the_disk_makes_it_lazy(case, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("ctseg.data.store.shutil.disk_usage", lambda path: usage)
    assert store(tmp_path, "auto").case(case).lazy


def test_bad_files_are_named(case, tmp_path):
    with h5py.File(case.images[0].path, "r+") as file:
        file["raw"][10, 10, 10] = np.nan
    ready = store(tmp_path, "lazy", [Clip()]).case(case)
    ready.image[:, :4, :4, :4]
    with pytest.raises(BadInput, match=r"case a .*NaN.*\[8, 8, 8\]"):
        ready.image[:, 8:12, 8:12, 8:12]
    del ready  # closes the file
    with h5py.File(case.images[0].path, "r+") as file:
        file["label"][0, 0, 0] = 7
    os.utime(case.images[0].path, ns=(5, 5))
    with pytest.raises(BadInput, match=r"Case a: .*label value 7"):
        store(tmp_path, "lazy", [Clip()]).case(case)
    unlabelled = dataclasses.replace(case, label=None)
    with pytest.raises(BadInput, match="no label"):
        store(tmp_path, "lazy", [Clip()]).case(unlabelled)
    other = Volume.from_array(np.ones((4, 5, 6), np.uint8))
    ctseg.write(other, tmp_path / "other.nii")
    moved = dataclasses.replace(case, label=ImageRef(tmp_path / "other.nii"))
    with pytest.raises(GeometryMismatch, match="shape"):
        store(tmp_path, "lazy", [Clip()]).case(moved)


def test_places_of_a_label_of_value_0_are_found(case, tmp_path, monkeypatch):
    """Slabs of zeros are pores here, not background."""
    monkeypatch.setattr("ctseg.data.lazy_survey.READ_BYTES", 4 * 21 * 24)
    with h5py.File(case.images[0].path, "r+") as file:
        label = np.where(file["label"][()] == 9, 2, 1)
        label[5:12] = 0
        file["label"][...] = label
    case = dataclasses.replace(case, mask=None, weight=None)
    task = Task("classes", (Label("solid", (1, 2), 1), Label("pore", (0,), 0)))
    copied, lazy = (
        Store(Pipeline([Clip()]), task, tmp_path / mode, mode).case(case)
        for mode in ("store", "lazy")
    )
    assert set(copied.groups) == {0, 1}
    np.testing.assert_array_equal(lazy.places, copied.places)


def test_only_boxes_can_be_taken(case, tmp_path):
    image = store(tmp_path, "lazy").case(case).image
    assert image[0].shape == (18, 21, 24)
    assert image[:, 2:2].shape == (1, 0, 21, 24)
    assert image[0, -3:, :5].shape == (3, 5, 24)
    for key in ((0, 1), (slice(None), slice(0, 4, 2)), ..., (slice(None),) * 5):
        with pytest.raises(IndexError, match="boxes"):
            image[key]


def test_statistics_of_large_scans_rest_on_even_samples(case, tmp_path, monkeypatch):
    steps = [RescaleCase((1, 99), 0, 1)]
    exact = store(tmp_path, "store", steps).case(case).applied.steps[0].record
    whole = store(tmp_path, "lazy", steps).case(case).applied.steps[0].record
    assert whole == exact
    monkeypatch.setattr("ctseg.data.lazy_survey.SAMPLES", 4000)
    monkeypatch.setattr("ctseg.data.lazy_survey.READ_BYTES", 10_000)  # several slabs
    near = store(tmp_path / "again", "lazy", steps).case(case).applied.steps[0].record
    assert near != exact
    np.testing.assert_allclose(near["low"], exact["low"], atol=0.25)
    np.testing.assert_allclose(near["high"], exact["high"], atol=0.25)


def test_a_file_deleted_while_training_is_named(case, tmp_path):
    """A file that is open stays readable on Linux; in a worker that opens it anew it is gone."""
    ready = store(tmp_path, "lazy").case(case)
    case.images[0].path.unlink()
    with pytest.raises(CtsegError, match=r"Case a: .*scan\.h5 does not exist"):
        batch([pickle.loads(pickle.dumps(ready))], (4, 4, 4), size=1, rule=0.5, seed=0, step=0)


GIANT = """
import json, sys, time
from pathlib import Path
from ctseg.data.pipeline import Pipeline
from ctseg.data.store import Store
from ctseg.data.rng import SAMPLE, generator
from ctseg.data.sampling import Rule, draw, patch
from ctseg.data.steps import Orient, Normalise
from ctseg.specs import Case, ImageRef
from ctseg.task import classes_task

def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) / 1024

folder = Path(sys.argv[1])
path = folder / "giant.h5"
case = Case("giant", (ImageRef(path),), ImageRef(path, {"dataset": "/label"}))
task = classes_task({"pore": 1})
import ctseg.volume.formats.hdf5.open
before = memory("VmRSS")
ready = Store(Pipeline([Orient(), Normalise((100.0,), (50.0,))]), task, folder / "store").case(case)
values = []
for step in range(64):
    place = draw([ready], (64, 64, 64), Rule(positive=0.5), generator(0, step, 0, SAMPLE))
    image, target, _ = patch(ready, place.start_zyx, (64, 64, 64))
    values.append([float(image.max()), int(target.max())])
print(json.dumps({"lazy": ready.lazy, "peak": memory("VmHWM") - before, "values": values,
                  "gib": ready.image.nbytes / 2**30}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_volume_of_20_gb_is_opened_and_drawn_from_in_little_memory(tmp_path):
    """20 GB of float32, sparse on disk; a bright pore of some voxels in it."""
    shape = (1024, 2210, 2210)
    with h5py.File(tmp_path / "giant.h5", "w") as file:
        raw = file.create_dataset("raw", shape, np.float32)
        label = file.create_dataset("label", shape, np.uint8, chunks=(32, 256, 256))
        raw[700:703, 1500:1503, 2100:2103] = 200
        label[700:703, 1500:1503, 2100:2103] = 1
    assert (tmp_path / "giant.h5").stat().st_size > 20e9
    if (tmp_path / "giant.h5").stat().st_blocks * 512 > 2**30:
        pytest.skip("this file system has no sparse files")
    made = subprocess.run(
        [sys.executable, "-c", GIANT, str(tmp_path)], check=True, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = json.loads(made.stdout)
    assert found["lazy"]
    assert found["gib"] > 18
    assert found["peak"] < 300
    pores = [value for value in found["values"] if value[1] == 1]
    assert 16 < len(pores) < 48
    assert all(value[0] == 2 for value in pores)  # (200 - 100) / 50


def test_draws_do_not_look_through_all_places(case, tmp_path):
    ready = store(tmp_path, "lazy").case(case)
    assert ready.groups is ready.groups  # found once
    place = draw([ready], (4, 4, 4), 1.0, generator(0, 0, 0, SAMPLE))
    assert place.group in (1, 2)
