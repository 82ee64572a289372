"""Weights published with earlier versions: their options, their names and what they predict stay as they are.

The expected numbers were written down with the code of version 0.1.0, commit a3a0bbb.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctseg.config.checking import fill_dataclass
from ctseg.nets.config import ResidualUNet3DConfig, UNet3DConfig
from ctseg.nets.unet import residual_unet3d, unet3d

ENTRY = Path(__file__).resolve().parents[2] / "zoo" / "unet3d.hippocampus_v1"
BUILD = {
    "unet3d": (unet3d, UNet3DConfig),
    "residual_unet3d": (residual_unet3d, ResidualUNet3DConfig),
}


def waves(count: int) -> torch.Tensor:
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.37).float()


def fill(net: torch.nn.Module) -> None:
    """Weights that depend on the names alone, and on no random generator."""
    for index, (name, tensor) in enumerate(sorted(net.state_dict().items())):
        wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.7 + index)
        if tensor.ndim > 1:
            wave = wave / tensor[0].numel() ** 0.5
        elif name.endswith("norm.weight"):
            wave = 1 + 0.1 * wave
        else:
            wave = 0.1 * wave
        tensor.copy_(wave.reshape(tensor.shape))


def test_the_published_hippocampus_model_predicts_what_it_did():
    options = json.loads((ENTRY / "card.json").read_text())["options"]
    config = fill_dataclass(UNet3DConfig, options, owner="unet3d")
    net = unet3d(config, in_channels=1, out_channels=3).eval()
    net.load_state_dict(load_file(ENTRY / "weights.safetensors"), strict=True)
    with torch.no_grad():
        logits = net(waves(24 * 32 * 24).reshape(1, 1, 24, 32, 24))
    expected = [
        3.745803117752075, 5.580402851104736, 3.7945289611816406, 4.425325393676758, -0.07076892256736755,
        -6.103719234466553, -5.558437347412109, -5.480064392089844, -4.078363418579102, -3.5869202613830566,
        -5.0958147048950195, -7.674061298370361,
    ]  # fmt: skip
    torch.testing.assert_close(
        logits.flatten()[::5003], torch.tensor(expected), atol=1e-3, rtol=1e-3
    )
    assert float(logits.abs().mean()) == pytest.approx(4.71801233291626, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "tensors", "names"),
    [
        ("unet3d", 64, "1167b628efc36e0fef79380441a8352d4fc9c2ce6724fdc2d892921a10ca8c9a"),
        (
            "residual_unet3d",
            145,
            "fb8abfad2365500295360bab646abe2eee042fd36f114c301fb1a28d010d300b",
        ),
    ],
)
def test_names_and_shapes_of_the_default_networks(name, tensors, names):
    build, config = BUILD[name]
    state = build(config(), in_channels=1, out_channels=3).state_dict()
    listed = "\n".join(f"{key} {tuple(value.shape)}" for key, value in state.items())
    assert len(state) == tensors
    assert hashlib.sha256(listed.encode()).hexdigest() == names


VALUES = {
    "unet3d": [
        -0.05779638886451721, -0.048522476106882095, 0.13253238797187805, -0.06990186870098114, 0.00468929298222065,
        -0.4996929168701172, 0.05483978986740112, -0.011713473126292229,
    ],
    "residual_unet3d": [
        -0.6965866088867188, -0.23201224207878113, 0.025364961475133896, 0.015259958803653717, -0.130378857254982,
        0.19244395196437836, 0.2715432345867157, -0.016293630003929138,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", BUILD)
def test_logits_of_the_default_options(name):
    build, config = BUILD[name]
    net = build(config(features=(8, 16, 24, 32)), in_channels=1, out_channels=3).eval()
    with torch.no_grad():
        fill(net)
        logits = net(waves(16**3).reshape(1, 1, 16, 16, 16))
    found = logits.flatten()[::1637]
    torch.testing.assert_close(found, torch.tensor(VALUES[name]), atol=1e-3, rtol=1e-3)
