"""Loading: batches are the same wherever they are made, and what fails is named."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch

from ctseg.config import AugmentConfig, PreprocessConfig
from ctseg.data import loading
from ctseg.data.augment.parameters import draw_parameters
from ctseg.data.augment.sides import Sides, exchanged
from ctseg.data.augment.units import hounsfield
from ctseg.data.lazy import LazyArray
from ctseg.data.loading import Loader, Recipe
from ctseg.data.patch_centres import patch_centres
from ctseg.data.pipeline import AppliedPipeline, Pipeline
from ctseg.data.prepared_case import Prepared
from ctseg.data.readers.find import open_dataset
from ctseg.data.rng import AUGMENT, generator
from ctseg.data.steps import step_to_dict
from ctseg.data.steps.intensity import Normalise, Rescale
from ctseg.data.store import Store
from ctseg.errors import BadInput, RunFailed
from ctseg.specs import Label, Task
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry
from tests.data.plain_batch import batch

TASK = classes_task({"left": 1, "right": 2})
PATCH = (8, 12, 12)
NONE = AugmentConfig(preset="none").resolved(PATCH)
FULL = AugmentConfig(
    preset="nnunet", rotation=1, elastic=0.5, turns=0.5, noise=1, blur=1, contrast=1, gamma=1,
    low_resolution=1, cut_out=1,
).resolved(PATCH)  # fmt: skip


def case(
    name="a", shape=(20, 24, 28), seed=0, direction=((1, 0, 0), (0, 1, 0), (0, 0, 1)), **changes
) -> Prepared:
    rng = np.random.default_rng(seed)
    target = np.zeros((1, *shape), np.int16)
    target[0, 2:12, 3:15, 4:16] = 1
    target[0, -5, -3:, 20:25] = 2
    geometry = Geometry(shape, direction=direction)
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    fields = {"target": target, "places": patch_centres(TASK, target), **changes}
    return Prepared(
        name,
        image,
        fields.pop("target"),
        fields.pop("places"),
        AppliedPipeline((), geometry, geometry),
        **fields,
    )


def recipe(augment=FULL, **changes) -> Recipe:
    return Recipe(PATCH, 3, seed=7, augment=augment, **changes)


def batches(cases, made_by, steps=range(4), **options):
    with Loader(cases, made_by, **options) as loader:
        return [loader.batch(step) for step in steps]


def same(one, two):
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a, b, strict=True):
            assert (x is None and y is None) or torch.equal(x, y)


def test_batches_are_the_same_with_any_number_of_workers_and_from_any_cache():
    cases = [case(seed=i) for i in range(3)]
    cases[1] = dataclasses.replace(cases[1], weight=np.full((1, 20, 24, 28), 2, np.float32))
    alone = batches(cases, recipe(), workers=0)
    assert alone[0].image.shape == (3, 1, *PATCH)
    assert alone[0].target.shape == (3, 1, *PATCH)
    assert alone[0].weight is not None
    weights = torch.cat([b.weight for b in alone])
    assert set(weights.round(decimals=3).unique().tolist()) == {1, 2}
    assert not torch.equal(alone[0].image, alone[1].image)
    for workers in (1, 2):
        same(alone, batches(cases, recipe(), workers=workers))
    same(alone, batches(cases, recipe(), workers=0, cache="ram"))
    same(alone[2:], batches(cases, recipe(), steps=(2, 3), workers=2))  # after a resume
    same(alone[::-1], batches(cases, recipe(), steps=(3, 2, 1, 0), workers=2))


def test_a_part_of_a_global_batch():
    cases = [case(seed=i) for i in range(3)]
    whole = batches(cases, recipe(), steps=[5])[0]
    part = Recipe(PATCH, 1, seed=7, augment=FULL, first_index=2)
    assert torch.equal(batches(cases, part, steps=[5])[0].image[0], whole.image[2])


def test_without_transforms_a_batch_is_what_the_sampler_cuts():
    cases = [case(seed=i) for i in range(3)]
    image, target, weight = batch(cases, PATCH, size=3, rule=0.5, seed=7, step=2)
    got = batches(cases, recipe(NONE), steps=[2])[0]
    np.testing.assert_array_equal(got.image, image)
    np.testing.assert_array_equal(got.target, target)
    assert weight is None and got.weight is None


def test_scans_on_an_accelerator_give_the_same_boxes(monkeypatch):
    """The way of accelerators, with the CPU in the place of one."""
    monkeypatch.setattr(loading, "choose_cache", lambda *_: "device")
    cases = [case(seed=i, shape=(6, 24, 28)) for i in range(2)]
    resident = batches(cases, recipe(), workers=2)
    monkeypatch.undo()
    same(batches(cases, recipe(), workers=0), resident)


def test_float_targets_keep_their_type_and_nan():
    target = np.random.default_rng(0).normal(size=(2, 20, 24, 28)).astype(np.float32)
    target[:, 10] = np.nan
    cases = [case(target=target, places=np.zeros((0, 4), np.int32))]
    got = batches(cases, recipe(), steps=[0])[0].target
    assert got.dtype == torch.float32
    assert got.shape == (3, 2, *PATCH)
    assert got.isnan().any() and got.isfinite().any()


@pytest.mark.parametrize("axis", [0, 2])
def test_left_and_right_swap_along_the_scans_own_axis(axis):
    """One scan lies along x, the other along z: the labels swap where that axis flips."""
    task = Task("classes", TASK.labels, mirror_pairs=(("left", "right"),))
    along_z = ((0, 0, 1), (0, 1, 0), (1, 0, 0))
    cases = [case(direction=along_z) if axis == 0 else case()]
    flips = (
        AugmentConfig(preset="none")
        .resolved(PATCH)
        .model_copy(update={"preset": "nnunet", "mirror_axes": ("z", "y", "x")})
    )
    plain = batches(cases, recipe(flips), steps=range(4))
    swapped = batches(cases, recipe(flips, sides=Sides.of(task)), steps=range(4))
    seen = set()
    for step, (one, two) in enumerate(zip(plain, swapped, strict=True)):
        for index in range(3):
            flipped = axis in draw_parameters(flips, generator(7, step, index, AUGMENT)).mirror
            seen.add(flipped)
            before = one.target[index]
            table = {0: 0, 1: 2, 2: 1} if flipped else {0: 0, 1: 1, 2: 2}
            assert torch.equal(two.target[index], before.clone().apply_(table.__getitem__))
    assert seen == {True, False}


# ---------------------------------------------------------------- what fails


class Broken:
    """An array whose file is gone."""

    shape, dtype = (1, 20, 24, 28), np.dtype(np.float32)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, _: object) -> np.ndarray:
        raise self.error


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "error", [ValueError("the 3rd slab is damaged"), FileNotFoundError(2, "No such file", "x.h5")]
)
def test_what_a_worker_raises_is_shown_with_the_case(workers, error):
    cases = [dataclasses.replace(case("study_17"), image=Broken(error))]
    with Loader(cases, recipe(), workers=workers) as loader:
        with pytest.raises(RunFailed, match="Case study_17") as info:
            loader.batch(0)
        assert str(error) in str(info.value)
        assert info.value.__cause__ is error
        with pytest.raises(RunFailed):  # and again: nothing hangs
            loader.batch(1)
    assert not [t for t in threading.enumerate() if t.name.startswith("ctseg-loader")]


def test_a_store_deleted_during_training(mini_set, tmp_path):
    """Open files outlive their names, so that training goes on; a case opened anew is named with its cause."""
    import pickle
    import shutil

    dataset = open_dataset(mini_set)
    assert dataset.task is not None
    pipeline = Pipeline.of(PreprocessConfig(steps=(step_to_dict(Normalise()),)))
    store = Store(pipeline, dataset.task, tmp_path)
    cases = store.prepare(dataset.cases[:2])
    sent = pickle.dumps(cases[0])
    with Loader(cases, recipe(NONE), workers=2) as loader:
        loader.batch(0)
        shutil.rmtree(tmp_path)
        assert loader.batch(1).image.isfinite().all()
    with pytest.raises((OSError, RunFailed), match=dataset.cases[0].id):
        pickle.loads(sent)


def test_workers_read_ahead_and_stop_at_the_end():
    read = []

    class Counted(np.ndarray):
        def __getitem__(self, key):
            read.append(threading.current_thread().name)
            return np.asarray(self)[key]

    plain = case()
    watched = dataclasses.replace(plain, image=plain.image.view(Counted))
    with Loader([watched], Recipe(PATCH, 1, 0, NONE), workers=1) as loader:
        loader.last = 2
        loader.batch(0)
        deadline = time.monotonic() + 10
        while len(read) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        loader.batch(1)
        loader.batch(2)
    assert len(read) == 3  # 0 and 1, and 2 only when it was asked for
    assert all(name.startswith("ctseg-loader") for name in read)


# ---------------------------------------------------------------- where scans lie


def test_the_cache_is_chosen_by_room(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    cases = [case()]
    need = loading.bytes_of(cases[0])
    assert need == 20 * 24 * 28 * (4 + 2)
    assert loading.choose_cache(cases, cpu, "auto") == "disk"
    assert loading.choose_cache(cases, cpu, "device") == "ram"
    monkeypatch.setattr(loading, "_free_on", lambda _: 10 * need)
    assert loading.choose_cache(cases, gpu, "auto") == "device"
    assert loading.choose_cache(cases, gpu, "disk") == "disk"
    assert loading.choose_cache(cases, gpu, "ram") == "ram"
    monkeypatch.setattr(loading, "_free_on", lambda _: need)
    assert loading.choose_cache(cases, gpu, "auto") == "disk"
    with pytest.raises(BadInput, match="GiB"):
        loading.choose_cache(cases, gpu, "device")
    monkeypatch.setattr(loading, "free_memory", lambda: need)
    with pytest.raises(BadInput, match="cache=disk"):
        loading.choose_cache(cases, cpu, "ram")
    lazy = [case(lazy=True)]
    monkeypatch.undo()
    assert loading.choose_cache(lazy, gpu, "auto") == "disk"
    with pytest.raises(BadInput, match="as they are needed"):
        loading.choose_cache(lazy, cpu, "ram")


def test_how_many_workers():
    assert Loader([case()], recipe()).workers == 0
    assert Loader([case()], recipe(), workers=3).workers == 3


def test_hounsfield_units_follow_the_preprocessing():
    steps = [step_to_dict(Normalise(mean=(40.0,), std=(80.0,)))]
    assert hounsfield([]) == (1.0,)
    assert hounsfield(steps) == (1 / 80,)
    assert hounsfield([step_to_dict(Normalise((0.0, 0.0), (10.0, 20.0)))]) == (0.1, 0.05)
    both = [step_to_dict(Rescale(-1000, 1000, 0, 1)), *steps]
    assert hounsfield(both) == pytest.approx((1 / 2000 / 80,))
    assert hounsfield([{"kind": "normalise_case"}]) == (0.01,)


def test_hounsfield_units_of_a_channel_are_those_of_its_own_steps():
    """CT beside PET: what happens to one changes nothing in the other."""
    ct = {"kind": "normalise", "std": [30.0], "channels": [0]}
    pet = {"kind": "normalise_case", "channels": [1]}
    assert hounsfield([ct, pet]) == hounsfield([pet, ct]) == (1 / 30, 0.01)
    assert hounsfield([ct], 2) == (1 / 30, 1.0)
    assert hounsfield([ct, {"kind": "rescale", "low": 0, "high": 2, "channels": [2]}]) == (
        1 / 30,
        1,
        1,
    )
    assert hounsfield([{"kind": "normalise", "std": [2.0, 4.0], "channels": [2, 0]}]) == (
        0.25,
        1,
        0.5,
    )
    assert hounsfield([step_to_dict(Normalise(std=(4.0,)))], 2) == (0.25, 0.25)
    assert hounsfield([{"kind": "normalise_target", "std": [1.0, 2.0, 3.0]}]) == (1.0,)


def test_labels_of_a_task_without_sides():
    assert Sides.of(Task("classes", (Label("background", (0,), 0),))) == Sides()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_accelerator_makes_what_the_cpu_makes():
    cases = [case(seed=i) for i in range(3)]
    quiet = FULL.model_copy(update={"noise": 0.0})  # each kind of device draws noise of its own
    expected = batches(cases, recipe(quiet))
    for cache in ("disk", "device"):
        got = batches(cases, recipe(quiet), device="cuda", cache=cache)
        for one, two in zip(expected, got, strict=True):
            torch.testing.assert_close(two.image.cpu(), one.image, atol=2e-2, rtol=1e-2)
            assert (two.target.cpu() == one.target).float().mean() > 0.999


def test_a_label_deleted_during_training_is_named(mini_set, mini_options, tmp_path, monkeypatch):
    """Patches come from the store, but validation reads the labels as they are stored."""
    import shutil

    from typer.testing import CliRunner

    from ctseg.cli.app import app

    data = tmp_path / "Mini"
    shutil.copytree(mini_set, data)
    step = Loader.batch

    def batch(self: Loader, number: int) -> loading.Batch:
        shutil.rmtree(data / "labelsTr", ignore_errors=True)
        return step(self, number)

    monkeypatch.setattr(Loader, "batch", batch)
    arguments = ["train", str(data), "-o", str(tmp_path / "run"), "--steps", "4", *mini_options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "Case mini_" in result.stderr
    assert "labelsTr" in result.stderr
    assert "does not exist" in result.stderr
    assert "Traceback" not in result.stderr


def test_sides_are_exchanged_by_what_mirroring_and_turns_do_together():
    base = draw_parameters(NONE, np.random.default_rng(0))
    half, quarter = ((0, 1, 2), (1, 2)), ((0, 2, 1), (1,))

    def after(mirror, turn=base.turn, lateral=2):
        return exchanged(dataclasses.replace(base, mirror=mirror, turn=turn), lateral)

    assert [after(m) for m in ((), (2,), (0,), (1, 2))] == [False, True, False, True]
    assert after((1, 2), half) is False  # the half turn takes both flips back: nothing has moved
    assert after((), half) is after((1, 2))  # one and the same picture
    assert after((), quarter) is False  # a turn mirrors nothing
    assert after((1,), quarter) is after((2,), quarter) is True
    assert after((1, 2), quarter) is False


class Closing:
    """Reads nothing, and notes that it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __call__(self, start, stop):
        return np.zeros((1, *(b - a for a, b in zip(start, stop, strict=True))), np.float32)

    def close(self) -> None:
        self.closed += 1


def test_files_of_lazy_scans_are_closed_in_the_end():
    readers = Closing(), Closing()
    image, target = (
        LazyArray((1, 20, 24, 28), dtype, reader)
        for dtype, reader in zip((np.float32, np.int16), readers, strict=True)
    )
    lazy = dataclasses.replace(case(), image=image, target=target, lazy=True)
    with Loader([lazy], recipe(NONE), workers=1) as loader:
        loader.batch(0)
        assert [reader.closed for reader in readers] == [0, 0]
    assert [reader.closed for reader in readers] == [1, 1]
