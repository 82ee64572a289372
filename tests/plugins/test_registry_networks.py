"""Every registered network and loss, through the kit that plugin authors use."""

from __future__ import annotations

import pytest

from ctseg import plugins, testing
from ctseg.nets.config import ResidualUNet3DConfig, UNet3DConfig

SMALL = {
    "unet3d": UNet3DConfig(features=(4, 6, 8, 10)),
    "residual_unet3d": ResidualUNet3DConfig(features=(4, 6, 8, 10)),
}


@pytest.mark.parametrize("name", plugins.names("architecture"))
def test_networks_keep_the_contract(name):
    testing.check_architecture(plugins.architecture(name), config=SMALL.get(name))


@pytest.mark.parametrize("name", plugins.names("loss"))
def test_losses_keep_the_contract(name):
    testing.check_loss(plugins.loss(name), detached=name == "wce")  # its weights are constants


def test_the_registry_is_not_empty():
    assert {"unet3d", "residual_unet3d"} <= set(plugins.names("architecture"))
    assert {"ce", "bce", "dice", "dice_ce", "bce_dice"} <= set(plugins.names("loss"))
