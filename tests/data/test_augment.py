"""Augmentation of a batch: what moves together, what stays, and what is drawn."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from ctseg.config import AugmentConfig, RunConfig, dump_config, override, parse_config
from ctseg.config.augment import PRESETS, PROBABILITIES
from ctseg.data import loading
from ctseg.data.augment import centre, draw_parameters, margin
from ctseg.data.augment.sides import Sides, lateral_axis
from ctseg.data.loading import Recipe
from ctseg.data.rng import AUGMENT, generator
from ctseg.errors import ConfigError
from ctseg.specs import Label, Task

OFF = dict.fromkeys(PROBABILITIES, 0) | {"mirror_axes": ()}
VALUES = (
    "noise", "blur", "brightness", "contrast", "gamma", "gamma_inverted", "low_resolution", "shift", "cut_out",
)  # fmt: skip
PATCH = (12, 14, 16)


def scan(seed=0, shape=PATCH, channels=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn((2, channels, *shape), generator=g)


def augment(image, target, config, patch_zyx, *, seed, step, maps=0, lateral=2, **changes):
    recipe = Recipe(patch_zyx, len(image), seed, config, **changes)
    return loading.augment(image, target, recipe, step, maps=maps, lateral=lateral)


def config(**changes) -> AugmentConfig:
    return AugmentConfig(**{**OFF, **changes})


def test_nothing_happens_where_nothing_may():
    image, target = scan(), torch.randint(-1, 3, (2, 1, *PATCH))
    for off in (config(), AugmentConfig(preset="none"), AugmentConfig(preset="none", noise=1)):
        out, marks = augment(image, target, off, PATCH, seed=0, step=0)
        assert torch.equal(out, image)
        assert torch.equal(marks, target)
        assert margin(off, PATCH) == (0, 0, 0)
        assert off.resolved(PATCH).idle


def test_a_turn_by_nothing_is_the_identity():
    """The way through the resampling, where every voxel falls onto itself."""
    image, target = scan(), torch.randint(-1, 3, (2, 1, *PATCH))
    still = config(rotation=1, rotation_degrees=(0, 0, 0))
    out, marks = augment(image, target, still, PATCH, seed=0, step=0)
    torch.testing.assert_close(out, image, atol=1e-3, rtol=0)
    assert torch.equal(marks, target)


def test_image_and_target_move_together():
    """The target is where the image lies above a threshold, so that it can be read off the moved image."""
    shape = (32, 36, 40)
    axes = torch.meshgrid(*(torch.linspace(0, 3, n) for n in shape), indexing="ij")
    image = (torch.sin(axes[0] * 2) + torch.cos(axes[1] * 3) + torch.sin(axes[2] + 1)).expand(
        2, 1, -1, -1, -1
    )
    target = (image > 0.4).to(torch.int16)
    everything = config(
        rotation=1, scale=1, elastic=1, elastic_mm=2, turns=1, mirror_axes=("z", "y", "x")
    )  # fmt: skip
    for step in range(4):
        moved, marks = augment(image, target, everything, (16, 18, 20), seed=3, step=step)
        known = (marks >= 0) & ((moved - 0.4).abs() > 0.25)
        assert known.float().mean() > 0.5
        assert ((moved > 0.4) == (marks == 1))[known].all()


def test_float_targets_move_as_the_image_does_and_nan_stays_unknown():
    image = scan(shape=(24, 24, 24))
    target = image.clone()
    target[0, 0, 12] = float("nan")
    turned = config(rotation=1, scale=1)
    moved, marks = augment(image, target, turned, (12, 12, 12), seed=3, step=0)
    known = ~marks.isnan()
    torch.testing.assert_close(moved[known], marks[known])
    assert not known[0].all()
    assert known[1].all()
    outside, unknown = augment(
        scan(), scan(), config(scale=1, scale_range=(0.5, 0.5)), PATCH, seed=0, step=0
    )
    assert unknown[:, :, 0].isnan().all()
    assert outside.isfinite().all()


def test_the_same_key_gives_the_same_batch_and_each_sample_its_own():
    anything = AugmentConfig(
        preset="nnunet", rotation=1, noise=1, elastic=1, cut_out=1, low_resolution=1
    )
    image, target = scan(), torch.zeros((2, 1, *PATCH), dtype=torch.int16)
    one, _ = augment(image, target, anything, PATCH, seed=1, step=5)
    two, _ = augment(image, target, anything, PATCH, seed=1, step=5)
    assert torch.equal(one, two)
    later, _ = augment(image, target, anything, PATCH, seed=1, step=6)
    assert not torch.equal(one, later)
    second, _ = augment(image[1:], target[1:], anything, PATCH, seed=1, step=5, first_index=1)
    assert torch.equal(second[0], one[1])


def test_switching_one_off_leaves_the_others_as_they_were():
    full = AugmentConfig(preset="nnunet", **dict.fromkeys(PROBABILITIES, 1.0)).resolved(PATCH)
    all_on = draw_parameters(full, generator(5, 1, 0, AUGMENT))
    for name in PROBABILITIES:
        fewer = draw_parameters(full.model_copy(update={name: 0.0}), generator(5, 1, 0, AUGMENT))
        changed = {k for k, v in vars(fewer).items() if repr(v) != repr(getattr(all_on, k))}
        assert len(changed) == 1, (name, changed)


def test_outside_the_scan_is_ignored():
    far = config(scale=1, scale_range=(0.5, 0.5))
    target = torch.ones((2, 1, *PATCH), dtype=torch.int16)
    _, marks = augment(scan(), target, far, PATCH, seed=0, step=0)
    assert (marks == -1).any()
    assert (marks == 1).any()
    assert set(marks.unique().tolist()) == {-1, 1}


def test_each_change_of_values_changes_the_image_and_not_the_target():
    target = torch.randint(0, 3, (2, 1, *PATCH))
    for name in VALUES:
        out, marks = augment(
            scan(), target, config(**{name: 1, "shift_range": (1, 2)}), PATCH, seed=2, step=0
        )
        assert not torch.allclose(out, scan()), name
        assert torch.isfinite(out).all(), name
        assert torch.equal(marks, target)


def test_weight_maps_move_but_keep_their_values():
    image = torch.cat([scan(), torch.full((2, 1, *PATCH), 5.0)], 1)
    target = torch.zeros((2, 1, *PATCH), dtype=torch.int16)
    everything = config(rotation=1, **dict.fromkeys(VALUES, 1))
    out, _ = augment(image, target, everything, PATCH, seed=0, step=0, maps=1)
    torch.testing.assert_close(out[:, 1], image[:, 1])
    assert not torch.allclose(out[:, 0], image[:, 0])


def test_a_shift_is_in_hounsfield_units():
    shifted = config(shift=1, shift_range=(30, 30))
    image = scan(channels=2)
    target = torch.zeros((2, 1, *PATCH), dtype=torch.int16)
    out, _ = augment(image, target, shifted, PATCH, seed=0, step=0, units=(1 / 100, 1 / 60))
    torch.testing.assert_close(out[:, 0], image[:, 0] + 0.3)
    torch.testing.assert_close(out[:, 1], image[:, 1] + 0.5)


# ---------------------------------------------------------------- left and right


def sided(kind="classes") -> Task:
    names = ["background"] * (kind == "classes") + ["left lung", "spine", "right lung"]
    labels = tuple(Label(name, (i,), i) for i, name in enumerate(names))
    return Task(kind, labels, mirror_pairs=(("left lung", "right lung"),))


def test_left_and_right_labels_swap_where_the_lateral_axis_flips():
    flip = config(mirror_axes=("z", "y", "x"))
    image = scan(shape=(8, 8, 8))
    target = torch.randint(-1, 4, (2, 1, 8, 8, 8), dtype=torch.int16)
    sides = Sides.of(sided())
    table = {-1: -1, 0: 0, 1: 3, 2: 2, 3: 1}
    swapped = 0
    for step in range(6):
        _, plain = augment(image, target, flip, (8, 8, 8), seed=0, step=step)
        _, marks = augment(
            image, target, flip, (8, 8, 8), seed=0, step=step, sides=sides, lateral=1
        )
        for i in range(2):
            rng = generator(0, step, i, AUGMENT)
            if 1 in draw_parameters(flip.resolved((8, 8, 8)), rng).mirror:
                expected = plain[i].clone().apply_(table.__getitem__)
                swapped += 1
            else:
                expected = plain[i]
            assert torch.equal(marks[i], expected)
    assert 0 < swapped < 12


def test_channels_of_left_and_right_swap():
    target = torch.arange(3).view(3, 1, 1, 1)
    assert Sides.of(sided("channels")).swap(target).flatten().tolist() == [2, 1, 0]
    plain = Task("classes", (Label("background", (0,), 0), Label("left lung", (1,), 1)))
    assert Sides.of(plain).swap(target) is target


def test_the_lateral_axis_is_read_from_the_geometry():
    assert lateral_axis(np.eye(3)) == 2
    assert lateral_axis([[0, 0, -1], [1, 0, 0], [0, 1, 0]]) == 0  # array z runs to the right
    assert lateral_axis([[0.2, 0.97, 0], [0.97, -0.2, 0], [0, 0, 1]]) == 1


# ---------------------------------------------------------------- what is drawn


def test_probabilities_and_ranges_of_nnunet_hold():
    c = AugmentConfig(preset="nnunet").resolved((64, 64, 64))
    draws = [draw_parameters(c, generator(0, step, 0, AUGMENT)) for step in range(4000)]

    def check(share, hits):
        assert stats.binomtest(sum(hits), len(draws), share).pvalue > 1e-4

    check(1 - 0.8 * 0.8, [d.affine is not None for d in draws])
    check(0.1, [d.noise > 0 for d in draws])
    check(0.2, [d.blur > 0 for d in draws])
    check(0.25, [d.low_resolution[1] < 1 for d in draws])
    check(0.3, [d.gamma != 1 for d in draws])
    check(0.1, [d.gamma_inverted != 1 for d in draws])
    check(0.15, [d.brightness != 1 for d in draws])
    for axis in range(3):
        check(0.5, [axis in d.mirror for d in draws])
    gammas = np.array([d.gamma for d in draws if d.gamma != 1])
    assert 0.7 <= gammas.min() < 0.72 and 1.47 < gammas.max() <= 1.5
    assert stats.binomtest(int((gammas < 1).sum()), len(gammas), 0.5).pvalue > 1e-4
    noise = np.array([d.noise for d in draws if d.noise])
    assert stats.kstest(noise**2 * 10, "uniform").pvalue > 1e-4
    zooms = [np.linalg.det(d.affine) ** (-1 / 3) for d in draws if d.affine is not None]
    assert 0.7 <= min(zooms) < 0.72 and 1.36 < max(zooms) <= 1.4 + 1e-9


def test_flat_patches_turn_in_their_plane():
    c = AugmentConfig(preset="nnunet").resolved((16, 128, 128))
    assert c.in_plane
    assert c.rotation_degrees == (180.0, 0.0, 0.0)
    for step in range(200):
        d = draw_parameters(c, generator(0, step, 0, AUGMENT))
        assert d.low_resolution[0] == 1
        if d.affine is not None:
            np.testing.assert_allclose(d.affine[0], [1, 0, 0], atol=1e-12)
            np.testing.assert_allclose(d.affine[:, 0], [1, 0, 0], atol=1e-12)
    asked = AugmentConfig(preset="nnunet", rotation_degrees=(10, 5, 5)).resolved((16, 128, 128))
    assert not asked.in_plane


def test_quarter_turns_need_equal_spacing():
    c = config(turns=1, turn_axes=("z", "y"))
    seen = set()
    for step in range(100):
        d = draw_parameters(
            c.resolved(PATCH), generator(0, step, 0, AUGMENT), spacing_zyx=(3, 1, 1)
        )
        axes, back = d.turn
        assert axes in ((0, 1, 2), (0, 2, 1))  # about y only 180 degrees
        seen.add((axes, back))
    assert seen == {
        ((0, 2, 1), (1,)), ((0, 1, 2), (1, 2)), ((0, 2, 1), (2,)), ((0, 1, 2), (0, 2)),
    }  # fmt: skip


# ---------------------------------------------------------------- the run file


def test_presets_fill_in_what_is_left_out():
    fields = set(AugmentConfig.model_fields) - {"preset", "in_plane", "extra"}
    assert all(set(preset) == fields for preset in PRESETS.values())
    default = AugmentConfig(noise=0.5)
    gpu, cpu = default.resolved(PATCH), default.resolved(PATCH, cpu=True)
    assert (gpu.preset, gpu.noise, gpu.blur, gpu.mirror_axes) == (
        "nnunet",
        0.5,
        0.2,
        ("z", "y", "x"),
    )
    assert (cpu.preset, cpu.noise, cpu.blur, cpu.mirror_axes) == ("gentle", 0.5, 0.15, ())
    assert gpu.complete and gpu.resolved(PATCH, cpu=True) == gpu
    assert AugmentConfig(preset="none").resolved(PATCH).complete


def test_another_preset_on_the_command_line_starts_anew():
    resolved = RunConfig(augment=AugmentConfig(preset="gentle").resolved(PATCH))
    assert parse_config(tomllib.loads(dump_config(resolved))) == resolved
    changed = override(resolved, ["augment.noise=0.7", "augment.preset=nnunet"])
    assert changed.augment.resolved(PATCH).rotation == 0.2
    assert changed.augment.noise == 0.7
    assert override(resolved, ["augment.preset=none"]).augment.resolved(PATCH).idle
    assert override(resolved, ["augment.noise=0.7"]).augment.rotation == 0.3


@pytest.mark.parametrize(
    "bad",
    [
        {"scale_range": (1.4, 0.7)}, {"scale_range": (0, 1)}, {"rotation": 1.5},
        {"low_resolution_range": (0.5, 2)}, {"noise_variance": (-1, 1)}, {"mirror_axes": ("w",)},
    ],
)  # fmt: skip
def test_impossible_ranges_are_refused(bad):
    with pytest.raises(ConfigError):
        parse_config({"augment": bad})


def test_centre():
    x = torch.arange(7.0).view(1, 1, 1, 1, 7)
    assert centre(x, (1, 1, 3)).flatten().tolist() == [2, 3, 4]


def test_each_transform_has_its_words_and_its_picture():
    docs = Path(__file__).resolve().parents[2] / "docs"
    page = (docs / "explanation" / "augmentation.md").read_text(encoding="utf-8")
    script = (docs / "augment_pictures.py").read_text(encoding="utf-8")
    assert (docs / "assets" / "augment.png").is_file()
    for name in (*PROBABILITIES, "mirror_axes"):
        assert f"`{name}`" in page, name
        assert f'"{name}": {{' in script, name
