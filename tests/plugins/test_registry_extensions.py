"""Every registered metric, step and augmentation, through the kit that plugin authors use."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ctseg import plugins, testing

OPTIONS = {
    "crop": {"above": 150.0, "margin_mm": 1.0},
    "crop_to_body": {"above": 100.0, "opening_zyx": [1, 1, 1]},
    "crop_or_pad": {"shape_zyx": [12, 8, 14]},
    "resample": {"spacing_xyz": [1.0, 1.0, 1.5]},
    "downscale": {"factor_zyx": [1, 2, 2]},
}


def spec_of(kind: plugins.Kind, name: str):
    return plugins.registry().get(kind, name).spec


@pytest.mark.parametrize("name", plugins.names("metric"))
def test_metrics_keep_the_contract(name):
    testing.check_metric(spec_of("metric", name))


@pytest.mark.parametrize("name", plugins.names("step"))
def test_steps_keep_the_contract(name):
    testing.check_step(spec_of("step", name), OPTIONS.get(name))


@pytest.mark.parametrize("name", plugins.names("augmentation"))
def test_augmentations_keep_the_contract(name):
    testing.check_augmentation(spec_of("augmentation", name))


def broken(spec, **changes):
    """The step with methods put in the place of its own."""
    made = dataclasses.dataclass(frozen=True)(type("Broken", (spec.load(),), changes))
    return dataclasses.replace(spec, load=lambda: made)


def test_broken_ones_are_found_out():
    dice = spec_of("metric", "dice")
    for measure, complaint in (
        (lambda pair: "one", "gives str"),
        (lambda pair: 1 - pair.counts.dice, "and higher is better"),
        (lambda pair: None, "no score for an ordinary prediction"),
        (lambda pair: float(pair.reference.fill(True) or 1), "changes the maps"),
    ):
        with pytest.raises(AssertionError, match=complaint):
            testing.check_metric(dataclasses.replace(dice, measure=measure))
    clip = spec_of("step", "clip")
    for changes, complaint in (
        ({"image": lambda self, image, g, r: np.multiply(image, 2, out=image)}, "changes the scan"),
        ({"image": lambda self, image, g, r: image[:, 1:]}, r"gives \(1, 9"),
        ({"image": lambda self, image, g, r: image - image.mean()}, "differs from the same box"),
        ({"label": lambda self, label, g, r: label + 1}, "labels get values"),
        ({"fit": lambda self, image, g: {"x": image.max()}}, "JSON"),
    ):
        with pytest.raises((AssertionError, TypeError), match=complaint):
            testing.check_step(broken(clip, **changes))
    rings = spec_of("augmentation", "rings")
    for augment, complaint in (
        (lambda image, target, **_: image, "image and target are expected"),
        (lambda image, target, **_: (image, target), "the same for every generator"),
        (lambda image, target, **_: (image[:, 1:], target), "returns"),
        (lambda image, target, *, rng, **_: (image + rng.random(), target + 1), r"puts \[3\]"),
        (
            lambda image, target, **_: (image + np.random.default_rng().random(), target),
            "rng alone",
        ),
    ):
        spec = dataclasses.replace(rings, build=lambda config, call=augment: call)
        with pytest.raises(AssertionError, match=complaint):
            testing.check_augmentation(spec)
