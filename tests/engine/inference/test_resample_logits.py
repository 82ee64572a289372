"""Interpolated values, labels and confidence against SciPy, and against all classes on the fine grid at once."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import softmax

from ctseg.engine.inference import resample_logits, resample_logits_cpu
from ctseg.engine.inference.resample_logits import (
    argmax_at,
    confidence,
    interpolate,
    last_positive_at,
)
from ctseg.errors import BadInput, RunFailed
from ctseg.volume.resample import centres, resample_at

NEAR = 2e-5


def values_by_scipy(low, positions):
    grid = np.meshgrid(*positions, indexing="ij")
    low = low.double().numpy()
    return np.stack([map_coordinates(c, grid, order=1, mode="nearest") for c in low])


def random_logits(classes, shape, seed=0, scale=5.0):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn((classes, *shape), generator=g)


def organ_logits(classes, shape, seed=0):
    """A few smooth bodies: each class is strong somewhere and weak, with some noise, elsewhere."""
    rng = np.random.default_rng(seed)
    which = gaussian_filter(rng.standard_normal((classes, *shape)), (0, 3, 3, 3)).argmax(0)
    each = [gaussian_filter(20.0 * (which == k), 1.0) - 10 for k in range(classes)]
    return torch.from_numpy(np.stack(each) + rng.standard_normal((classes, *shape)) / 2).float()


def evenly(shape, out):
    return tuple(centres(n, m) for n, m in zip(shape, out, strict=True))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks that even small volumes have many of."""
    for name in ("CELLS_ZYX", "ROW_CELLS_ZYX"):
        monkeypatch.setattr(resample_logits_cpu, name, (3, 4, 5))
    for name in ("OUTPUTS_ZYX", "ROW_OUTPUTS_ZYX"):
        monkeypatch.setattr(resample_logits_cpu, name, (6, 7, 8))


@st.composite
def cases(draw, most=12, fewest=1):
    """Logits and positions: up, down, reversed, beyond the ends, in any order, single voxels."""
    shape = tuple(draw(st.integers(1, 11)) for _ in range(3))
    positions = []
    for n in shape:
        kind = draw(st.sampled_from(["even", "identity", "reversed", "free", "shifted"]))
        if kind == "free":
            inner = st.floats(-2, n + 1, allow_nan=False, width=32)
            positions.append(np.array(draw(st.lists(inner, min_size=1, max_size=9)), float))
            continue
        even = centres(n, n if kind == "identity" else draw(st.integers(1, 23)))
        positions.append(even[::-1] if kind == "reversed" else even + 0.3 * (kind == "shifted"))
    make = draw(st.sampled_from([random_logits, organ_logits]))
    return make(draw(st.integers(fewest, most)), shape, draw(st.integers(0, 99))), tuple(positions)


def check_labels(found, values):
    """Equal to the argmax wherever the two best are apart."""
    best = np.sort(values, axis=0)
    clear = best[-1] - best[-2] > NEAR if len(values) > 1 else np.full(found.shape, True)
    np.testing.assert_array_equal(found.numpy()[clear], values.argmax(0)[clear])


@settings(max_examples=80, deadline=None)
@given(cases())
def test_values_are_those_of_scipy_and_of_resample_at(case):
    low, positions = case
    found = interpolate(low, positions)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), values_by_scipy(low, positions), rtol=0, atol=1e-5)
    other = low
    for axis, where in enumerate(positions, start=1):
        inside = np.clip(where, 0, low.shape[axis] - 1)  # resample_at repeats the edge likewise
        other = resample_at(other, axis, inside, 1)
    torch.testing.assert_close(found, other, rtol=0, atol=1e-5)


def test_values_are_those_of_a_regular_grid_interpolator():
    low = random_logits(2, (6, 7, 8))
    positions = (np.linspace(0, 5, 9), np.linspace(6, 0, 11), np.array([3.5, 0.25, 7.0]))
    axes = [np.arange(n) for n in low.shape[1:]]
    points = np.stack(np.meshgrid(*positions, indexing="ij"), -1)
    expected = [RegularGridInterpolator(axes, c.double().numpy())(points) for c in low]
    np.testing.assert_allclose(interpolate(low, positions).numpy(), expected, rtol=0, atol=1e-5)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_labels_confidence_and_regions_are_those_of_all_classes_at_once(case):
    low, positions = case
    values = values_by_scipy(low, positions)
    found = argmax_at(low, positions)
    check_labels(found, values)
    assert torch.equal(found.long(), interpolate(low, positions).argmax(0))  # bit for bit, ties too
    sure = confidence(low, positions, temperature=1.5)
    expected = softmax(values / 1.5, axis=0).max(0)
    np.testing.assert_allclose(sure.numpy(), expected, rtol=0, atol=1e-5)
    check_regions(last_positive_at(low, positions), values)


def check_regions(found, values):
    above, clear = np.zeros(values.shape[1:], int), (np.abs(values) > NEAR).all(0)
    for k, value in enumerate(values, start=1):
        above[value > 0] = k
    np.testing.assert_array_equal(found.numpy()[clear], above[clear])


@settings(max_examples=15, deadline=None)
@given(cases(fewest=60, most=130))
def test_many_classes_give_the_labels_of_all_at_once(case):
    low, positions = case
    values = values_by_scipy(low, positions)
    check_labels(argmax_at(low, positions), values)
    check_regions(last_positive_at(low, positions), values)


@pytest.mark.parametrize("make", [random_logits, organ_logits])
@pytest.mark.parametrize("out", [(31, 20, 25), (9, 40, 12), (14, 15, 16)])
def test_blocks_leave_no_trace(small_blocks, make, out):
    low = make(9, (14, 15, 16))
    positions = evenly((14, 15, 16), out)
    labels, sure = argmax_at(low, positions), confidence(low, positions)
    regions, values = last_positive_at(low, positions), interpolate(low, positions)
    check_labels(labels, values_by_scipy(low, positions))
    assert torch.equal(labels.long(), values.argmax(0))
    torch.testing.assert_close(sure, values.softmax(0).amax(0), rtol=0, atol=1e-6)
    for part in (slice(0, 1), slice(3, 8), slice(8, 9)):  # as a slab of a stream asks for them
        piece = (positions[0][part], *positions[1:])
        assert torch.equal(argmax_at(low, piece), labels[part])
        assert torch.equal(last_positive_at(low, piece), regions[part])
        assert torch.equal(interpolate(low, piece), values[:, part])
        torch.testing.assert_close(confidence(low, piece), sure[part], rtol=0, atol=1e-6)


def test_the_number_of_threads_leaves_no_trace(small_blocks):
    low, before = organ_logits(9, (14, 15, 16)), torch.get_num_threads()
    positions = evenly((14, 15, 16), (20, 21, 33))
    found, names = [], set()
    original = resample_logits_cpu.Block.values

    def spy(block, k):
        names.add(threading.current_thread().name)
        return original(block, k)

    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append([f(low, positions) for f in (argmax_at, confidence, interpolate)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resample_logits_cpu.Block, "values", spy)
            argmax_at(low, positions)
    finally:
        torch.set_num_threads(before)
    assert len(names) <= 3 and threading.current_thread().name not in names
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def by_chunks(low, positions, monkeypatch, chunk_bytes):
    """What a device that is no CPU does, on the CPU."""

    def fill(low_czyx, taps_zyx, out, make, threads):
        raise AssertionError("blocks are for the CPU")

    def instead(low_czyx, positions_zyx, dtype, make, plain, chunk):
        taps = resample_logits._taps(low_czyx, positions_zyx)
        out = torch.empty(resample_logits._shape(taps), dtype=getattr(torch, dtype.name))
        resample_logits._by_chunks(low_czyx, taps, out, plain, chunk)
        return out

    monkeypatch.setattr(resample_logits_cpu, "fill", fill)
    monkeypatch.setattr(resample_logits, "_make", instead)
    return [
        f(low, positions, chunk_bytes=chunk_bytes)
        for f in (argmax_at, confidence, last_positive_at)
    ]


@pytest.mark.parametrize("chunk_bytes", [1, 20_000, 100_000, 2**26])
def test_chunks_of_classes_find_what_blocks_find(monkeypatch, chunk_bytes):
    low = organ_logits(11, (9, 10, 8))[[*range(11), 4, 0, 10]]  # some of them tie, chunks apart
    positions = evenly((9, 10, 8), (13, 9, 21))
    expected = [f(low, positions) for f in (argmax_at, confidence, last_positive_at)]
    taps = resample_logits._taps(low, positions)
    assert torch.equal(resample_logits._lerp_all(low, taps), interpolate(low, positions))
    labels, sure, regions = by_chunks(low, positions, monkeypatch, chunk_bytes)
    assert torch.equal(labels, expected[0]) and labels.dtype == torch.uint8
    torch.testing.assert_close(sure, expected[1], rtol=0, atol=1e-6)
    assert torch.equal(regions, expected[2])


def test_few_classes_are_looked_at_where_most_are_far_below(monkeypatch):
    """The reason for the blocks: of 40 classes only those that meet in a block are interpolated."""
    which = np.zeros((24, 24, 24), int)
    which[:, 12:], which[:, :, 12:] = 7, 19
    noise = np.random.default_rng(0).standard_normal((40, 24, 24, 24))
    each = np.stack([gaussian_filter(20.0 * (which == k), 1) - 10 for k in range(40)])
    low = torch.from_numpy(each + 0.5 * noise).float()
    asked = []
    original = resample_logits_cpu.Block.values
    monkeypatch.setattr(
        resample_logits_cpu.Block, "values", lambda b, k: (asked.append(k), original(b, k))[1]
    )
    positions = evenly((24,) * 3, (48,) * 3)
    found = argmax_at(low, positions)
    assert set(asked) <= {0, 7, 19}
    assert torch.equal(found.long(), interpolate(low, positions).argmax(0))


def whole_block(low, positions):
    taps = resample_logits._taps(low, positions)
    runs = [resample_logits_cpu.runs(t, 99, 99) for t in taps]
    return resample_logits_cpu.Block(low, *(only for (only,) in runs))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_between_two_classes_that_cross_their_mean_holds(axis):
    ramp = torch.tensor([10.0, -10.0]).view([-1 if a == axis else 1 for a in range(4)])
    ramp = ramp.expand([1] + [2 if a == axis else 3 for a in range(1, 4)])
    low = torch.cat([ramp, -ramp, ramp * 0 - 9])
    block = whole_block(low, evenly(low.shape[1:], (6, 6, 6)))
    assert resample_logits_cpu.lower_bound(block, [0, 1]) == 0.0
    assert resample_logits_cpu.lower_bound(block, [1, 2]) == -9.0


@settings(max_examples=30, deadline=None)
@given(cases(), st.floats(-30, 30))
def test_the_strongest_class_is_never_below_what_it_surely_is(case, offset):
    low, positions = case
    block = whole_block(low + offset, positions)
    least = resample_logits_cpu.lower_bound(block, range(min(4, len(low))))
    highest = values_by_scipy(low + offset, positions).max(0)
    assert least <= highest.min() + 1e-4


def test_ties_go_to_the_first_class():
    low = random_logits(3, (5, 6, 7))[[2, 0, 0, 1, 1, 2]]
    assert set(argmax_at(low, evenly((5, 6, 7), (11, 9, 13))).unique().tolist()) <= {0, 1, 3}
    constant = torch.full((4, 3, 3, 3), -2.5)
    assert not argmax_at(constant, evenly((3, 3, 3), (5, 7, 9))).any()


def test_constants_stay_exactly_what_they_are():
    low = torch.full((1, 4, 5, 6), 0.1)
    assert (
        interpolate(low, evenly((4, 5, 6), (9, 7, 13))).unique().tolist() == low.unique().tolist()
    )


def test_the_identity_copies_nothing():
    low = random_logits(3, (4, 5, 6))
    same = evenly((4, 5, 6), (4, 5, 6))
    assert interpolate(low, same).data_ptr() == low.data_ptr()
    assert torch.equal(argmax_at(low, same).long(), low.argmax(0))


@pytest.mark.parametrize(
    ("classes", "dtype", "regions"),
    [(255, "uint8", "uint8"), (256, "uint8", "int16"), (257, "int16", "int16")],
)
def test_labels_take_the_smallest_type(classes, dtype, regions):
    low = torch.zeros((classes, 1, 2, 2))
    low[-1] = 1.0
    positions = evenly((1, 2, 2), (1, 3, 3))
    found, above = argmax_at(low, positions), last_positive_at(low, positions)
    assert found.dtype == getattr(torch, dtype) and found.unique().tolist() == [classes - 1]
    assert above.dtype == getattr(torch, regions) and above.unique().tolist() == [classes]


def test_more_labels_than_16_bits_hold_take_32():
    assert (
        resample_logits._dtype(2**15 - 1) == np.int16 and resample_logits._dtype(2**15) == np.int32
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32(dtype):
    low = random_logits(4, (5, 6, 7)).to(dtype)
    positions = evenly((5, 6, 7), (8, 11, 7))
    assert torch.equal(interpolate(low, positions), interpolate(low.float(), positions))
    assert torch.equal(argmax_at(low, positions), argmax_at(low.float(), positions))
    assert interpolate(low, evenly((5, 6, 7), (5, 6, 7))).dtype == torch.float32


def test_parts_of_larger_arrays_gradients_and_inference_mode_are_taken():
    whole = random_logits(3, (8, 9, 10))
    part = whole[:, 2:6, 1:8, 3:9].requires_grad_()
    positions = evenly((4, 7, 6), (9, 9, 9))
    expected = argmax_at(part.detach().clone(), positions)
    assert torch.equal(argmax_at(part, positions), expected)
    assert not interpolate(part, positions).requires_grad
    with torch.inference_mode():
        assert torch.equal(argmax_at(part * 1, positions), expected)


def test_a_confidence_is_one_where_nothing_comes_near_and_sharpens_as_it_cools():
    low = torch.zeros((3, 4, 4, 4))
    low[1] = 60.0
    positions = evenly((4, 4, 4), (6, 6, 6))
    assert (confidence(low, positions) == 1).all()
    warm = confidence(low, positions, temperature=30.0)
    expected = np.exp(2) / (np.exp(2) + 2)
    np.testing.assert_allclose(warm.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("out", [(6, 7, 8), (6, 9, 8), (11, 13, 17)])
def test_the_input_stays_as_it_is(small_blocks, out):
    low = organ_logits(9, (6, 7, 8))
    before, positions = low.clone(), evenly((6, 7, 8), out)
    for find in (interpolate, argmax_at, confidence, last_positive_at):
        find(low, positions)
        assert torch.equal(low, before), find.__name__


def test_nothing_wanted_is_nothing_found():
    none = (np.zeros(0), np.zeros(2), np.zeros(3))
    low = random_logits(2, (3, 3, 3))
    assert interpolate(low, none).shape == (2, 0, 2, 3)
    assert argmax_at(low, none).shape == (0, 2, 3)


@pytest.mark.parametrize(
    "low",
    [torch.zeros(3, 4, 5), torch.zeros(0, 3, 4, 5), torch.zeros((2, 3, 3, 3), dtype=torch.int32)],
)
def test_what_are_no_logits_is_refused(low):
    with pytest.raises(BadInput, match=r"floating-point \[C, Z, Y, X\]"):
        argmax_at(low, (np.zeros(1),) * 3)


@pytest.mark.parametrize("along_y", [np.array([np.nan]), np.array([np.inf]), np.zeros((2, 2))])
def test_positions_that_are_none_are_refused(along_y):
    with pytest.raises(BadInput, match="Positions along y"):
        interpolate(torch.zeros(1, 2, 2, 2), (np.zeros(1), along_y, np.zeros(1)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("find", [argmax_at, confidence, last_positive_at])
def test_no_label_is_made_of_what_is_no_number(find, value):
    """As of a network that leaves the range of half precision."""
    low = random_logits(3, (5, 6, 7))
    low[1, 2, 3, 4] = value
    with pytest.raises(RunFailed, match="NaN or infinite"):
        find(low, evenly((5, 6, 7), (8, 9, 10)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(BadInput, match="temperature"):
        confidence(torch.zeros(1, 2, 2, 2), (np.zeros(1),) * 3, temperature=temperature)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_finds_what_the_cpu_finds():
    low = organ_logits(30, (12, 20, 21))
    positions = evenly((12, 20, 21), (17, 33, 30))
    on_gpu = low.cuda()
    assert torch.equal(argmax_at(on_gpu, positions).cpu(), argmax_at(low, positions))
    assert torch.equal(interpolate(on_gpu, positions).cpu(), interpolate(low, positions))
    assert torch.equal(last_positive_at(on_gpu, positions).cpu(), last_positive_at(low, positions))
    sure = confidence(on_gpu, positions).cpu()
    torch.testing.assert_close(sure, confidence(low, positions), rtol=0, atol=1e-5)
    on_gpu[3, 4, 5, 6] = float("nan")
    with pytest.raises(RunFailed, match="NaN or infinite"):
        argmax_at(on_gpu, positions)
