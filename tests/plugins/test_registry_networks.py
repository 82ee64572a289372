"""Every registered network and loss, through the kit that plugin authors use."""

from __future__ import annotations

from typing import Any

import pytest

from ctseg import plugins, testing

SMALL_UNET = {"features": (4, 6, 8, 10)}
SMALL: dict[str, dict[str, Any]] = {
    "unet3d": SMALL_UNET,
    "residual_unet3d": SMALL_UNET,
    "residual_unet_se3d": SMALL_UNET,
    "unet2d": SMALL_UNET,
    "residual_unet2d": SMALL_UNET,
    "timm_unet": {"encoder": "resnet18", "levels": 3},
    "monai_dynunet": {
        "filters": (4, 6, 8),
        "kernels_zyx": ((3, 3, 3),) * 3,
        "strides_zyx": ((2, 2, 2),) * 2,
    },
    "monai_segresnet": {"init_filters": 8},
    "monai_swinunetr": {"feature_size": 12, "depths": (1, 1, 1, 1)},
    "monai_unetr": {
        "tile_zyx": (16, 16, 32),
        "feature_size": 8,
        "hidden_size": 48,
        "mlp_dim": 64,
        "num_heads": 4,
    },
}
SLOW = {"monai_swinunetr"}  # its smallest patch is 64 voxels wide
DETACHED = {"wce"}  # its weights are constant in the gradient


def networks():
    for name in plugins.names("architecture"):
        yield pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("name", list(networks()))
def test_networks_keep_the_contract(name):
    spec = plugins.architecture(name)
    config = plugins.make_config(spec, SMALL.get(name, {}))
    testing.check_architecture(spec, config=config, overfit=name not in SLOW)


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "efficientnet_b0", "levels": 3, "norm": "instance"},
        {"encoder": "convnext_atto", "levels": 2, "upsampling": "bilinear", "context_slices": 2},
    ],
    ids=lambda options: options["encoder"],
)
def test_encoders_of_other_families_keep_the_contract(options):
    spec = plugins.architecture("timm_unet")
    testing.check_architecture(spec, config=plugins.make_config(spec, options))


@pytest.mark.parametrize("name", plugins.names("loss"))
def test_losses_keep_the_contract(name):
    testing.check_loss(plugins.loss(name), detached=name in DETACHED)


def test_the_registry_is_not_empty():
    shipped = {"unet3d", "residual_unet3d", "unet2d", "timm_unet"}
    assert shipped <= set(plugins.names("architecture"))
    assert {"ce", "bce", "dice", "dice_ce", "bce_dice"} <= set(plugins.names("loss"))
