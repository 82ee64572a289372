"""Muon: orthogonalised momentum for matrices, AdamW for all else."""

from __future__ import annotations

import pytest
import torch

from ctseg import create_model
from ctseg.config import TrainConfig
from ctseg.engine.training.muon import COEFFICIENTS, Muon, is_matrix, orthogonal
from ctseg.engine.training.optim import make_optimizer
from ctseg.nets.timm_import import timm

zeropower_via_newtonschulz = timm().optim.muon.zeropower_via_newtonschulz


@pytest.mark.parametrize("shape", [(16, 432), (64, 864), (256, 64), (8, 8)])
def test_singular_values_become_those_of_the_polynomials(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator) * torch.logspace(-3, 0, shape[0])[:, None]
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for a, b, c in COEFFICIENTS:
        s = a * s + b * s**3 + c * s**5
    expected = (u * s) @ v
    assert torch.allclose(orthogonal(matrix).double(), expected, atol=1e-5)


def test_it_is_what_timm_computes():
    matrix = torch.randn(32, 200, generator=torch.Generator().manual_seed(1))
    theirs = zeropower_via_newtonschulz(matrix, 5, list(COEFFICIENTS), dtype=torch.float32)
    assert torch.allclose(orthogonal(matrix), theirs, atol=1e-5)


def test_a_zero_gradient_stays_zero():
    assert orthogonal(torch.zeros(8, 64)).abs().max() == 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((32, 16, 3, 3, 3), True),
        ((32, 16, 1, 1, 1), True),
        ((32, 1, 3, 3, 3), False),  # of one channel, or depthwise
        ((3, 32, 1, 1, 1), False),  # the output of three labels
        ((32,), False),
        ((4, 1000), False),
    ],
)
def test_which_weights_are_matrices(shape, expected):
    assert is_matrix(torch.zeros(shape)) is expected


def test_steps_are_those_of_timm_in_float32(monkeypatch):
    """timm's own computes in bfloat16; it is given float32 here."""

    def in_float32(*args, **kwargs):
        return zeropower_via_newtonschulz(*args, **kwargs, dtype=torch.float32)

    monkeypatch.setattr(timm().optim.muon, "zeropower_via_newtonschulz", in_float32)
    config = TrainConfig(optimizer="muon", lr=2e-3, weight_decay=0.01)
    found = {}
    for who in ("ours", "timm"):
        torch.manual_seed(0)
        net = create_model("unet3d", in_channels=1, out_channels=3, features=(8, 16))
        if who == "ours":
            optimizer = make_optimizer(net, config)
            assert isinstance(optimizer, Muon)
        else:
            optimizer = timm().optim.create_optimizer_v2(
                net, opt="muon", lr=2e-3, weight_decay=0.01, momentum=0.95, eps=1e-8
            )
        x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(2))
        for _ in range(3):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        found[who] = net.state_dict()
    for name in (
        n for n in found["ours"] if n.endswith("weight")
    ):  # biases before a norm have no gradient
        assert torch.allclose(found["ours"][name], found["timm"][name], atol=1e-5), name
