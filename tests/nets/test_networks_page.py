"""The settings that docs/explanation/networks.md shows are settings, and are those of the projects it names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from ctseg import plugins
from ctseg.nets.foreign import pytorch3dunet

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "networks.md"


def shown() -> list[tuple[str, object]]:
    blocks = re.findall(r"```toml\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    models = [tomllib.loads(block)["model"] for block in blocks]
    return [
        (
            m["architecture"],
            plugins.make_config(plugins.architecture(m["architecture"]), m["options"]),
        )
        for m in models
    ]


def test_every_block_of_settings_is_valid():
    assert [name for name, _ in shown()] == [
        "residual_unet3d",
        "unet3d",
        "unet3d",
        "residual_unet3d",
    ]


def test_settings_of_pytorch_3dunet_are_what_its_own_configurations_become():
    ends = {"in_channels": 1, "out_channels": 2}
    for (name, config), theirs in zip(shown()[2:], ("UNet3D", "ResidualUNet3D"), strict=True):
        network = pytorch3dunet.read_config({"name": theirs, **ends})
        assert (network.architecture, network.config) == (name, config)


def test_options_of_a_foreign_network_go_through_a_run_file():
    network = pytorch3dunet.read_config({"in_channels": 1, "out_channels": 2})
    spec = plugins.architecture(network.architecture)
    assert plugins.make_config(spec, network.options) == network.config
