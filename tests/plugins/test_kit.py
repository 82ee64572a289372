"""The kit finds what it is there to find: sound specs, each spoilt in one way."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from ctseg import testing
from ctseg.specs import ArchitectureSpec, Constraints, LossSpec
from tests.losses.by_name import ce


@dataclass(frozen=True)
class Options:
    width: int = field(default=4, metadata={"help": "channels"})


@dataclass(frozen=True)
class Silent:
    width: int = 4


@dataclass(frozen=True)
class Needy:
    width: int = field(metadata={"help": "channels"})


class Net(nn.Module):
    """Two convolutions at half resolution."""

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Conv3d(in_channels, width, 2, stride=2)
        self.up = nn.ConvTranspose3d(width, out_channels, 2, stride=2)

    def forward(self, x):
        return self.up(functional.leaky_relu(self.down(x)))


def build(config: Any, *, in_channels: int, out_channels: int) -> nn.Module:
    return Net(in_channels, out_channels, config.width)


SOUND = ArchitectureSpec("sound", build, Options, "a net", Constraints(stride_zyx=(2, 2, 2)))


def test_a_sound_network_passes():
    testing.check_architecture(SOUND)


class Tuple(Net):
    def forward(self, x):
        return (super().forward(x),)


class Cropped(Net):
    def forward(self, x):
        return super().forward(x)[..., 1:]


class Unused(Net):
    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.idle = nn.Parameter(torch.zeros(1))


class Shared(Net):
    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.register_buffer("one", torch.zeros(4))
        self.register_buffer("two", self.one)


class Dropping(Net):
    def forward(self, x):
        return functional.dropout(super().forward(x), 0.5)


class Gregarious(Net):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class Coarse(Net):
    def forward(self, x):
        y = super().forward(x)
        return (y[..., ::2], y) if self.training else y


class Wild(Net):
    def forward(self, x):
        return super().forward(x) / 0


@pytest.mark.parametrize(
    ("net", "complaint"),
    [
        (Tuple, "one tensor is expected"),
        (Cropped, "is expected"),
        (Unused, "no gradient reaches 'idle'"),
        (Shared, "safetensors cannot hold"),
        (Dropping, "the same input gives other logits"),
        (Gregarious, "depends on the others in its batch"),
        (Coarse, "out, .* is expected"),
        (Wild, "not finite"),
    ],
)
def test_spoilt_networks_are_found_out(net, complaint):
    def build(config: Any, *, in_channels: int, out_channels: int) -> nn.Module:
        return net(in_channels, out_channels, config.width)

    with pytest.raises(AssertionError, match=complaint):
        testing.check_architecture(dataclasses.replace(SOUND, build=build))


def test_networks_whose_constraints_are_wrong_are_found_out():
    fixed = Constraints(stride_zyx=(2, 2, 2), fixed_tile_zyx=(8, 8, 9))
    with pytest.raises(AssertionError, match="fixed_tile_zyx"):
        testing.check_architecture(dataclasses.replace(SOUND, constraints=fixed))
    with pytest.raises(AssertionError, match="from_plan gives str"):
        testing.check_architecture(dataclasses.replace(SOUND, from_plan=str))


class Lazy(Net):
    def forward(self, x):
        return 1e-4 * super().forward(x)


def test_networks_that_do_not_learn_are_found_out(monkeypatch):
    monkeypatch.setattr("ctseg.testing.overfit.STEPS", 10)

    def build(config: Any, *, in_channels: int, out_channels: int) -> nn.Module:
        return Lazy(in_channels, out_channels, config.width)

    lazy = dataclasses.replace(SOUND, build=build)
    with pytest.raises(AssertionError, match=r"on one patch .* 0\.9 is expected"):
        testing.check_architecture(lazy)
    testing.check_architecture(lazy, overfit=False)


class Slices(nn.Module):
    """Looks `reach` slices to either side."""

    def __init__(self, in_channels: int, out_channels: int, reach: int) -> None:
        super().__init__()
        kernel, padding = (2 * reach + 1, 3, 3), (reach, 1, 1)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, padding=padding)

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize(
    ("claimed", "complaint"),
    [(0, "more than 0 slices away"), (1, None), (2, "depends on fewer than the 2 slices")],
)
def test_the_context_that_is_claimed_is_the_context_that_is_used(claimed, complaint):
    def build(config: Any, *, in_channels: int, out_channels: int) -> nn.Module:
        return Slices(in_channels, out_channels, 1)

    constraints = Constraints((1, 1, 1), (2 * claimed + 1, 8, 8), None, claimed, 2)
    spec = dataclasses.replace(SOUND, build=build, constraints=constraints)
    if complaint is None:
        testing.check_architecture(spec)
        return
    with pytest.raises(AssertionError, match=complaint):
        testing.check_architecture(spec)
    thin = dataclasses.replace(constraints, min_tile_zyx=(2, 8, 8), context_slices=1)
    with pytest.raises(AssertionError, match="smallest tile has 2 slices"):
        testing.check_architecture(dataclasses.replace(spec, constraints=thin))


class Picky(Net):
    def forward(self, x):
        if x.shape[2] % 4:
            raise RuntimeError("multiples of 4 only")
        return super().forward(x)


def test_networks_that_refuse_what_they_allow_are_found_out():
    def build(config: Any, *, in_channels: int, out_channels: int) -> nn.Module:
        return Picky(in_channels, out_channels, config.width)

    smallest = Constraints(stride_zyx=(2, 2, 2), min_tile_zyx=(4, 4, 4))
    spec = dataclasses.replace(SOUND, build=build, constraints=smallest)
    with pytest.raises(AssertionError, match=r"allow a tile of \(6, 6, 4\)"):
        testing.check_architecture(spec)


def test_networks_that_cannot_be_rebuilt_are_found_out():
    def moody(config: Any, *, in_channels: int, out_channels: int) -> nn.Module:
        torch.seed()
        return Net(in_channels, out_channels, config.width)

    with pytest.raises(AssertionError, match="the same seed gives other weights"):
        testing.check_architecture(dataclasses.replace(SOUND, build=moody))


@pytest.mark.parametrize(
    ("config", "complaint"), [(Silent, "no field"), (Needy, "needs a default")]
)
def test_options_without_help_or_default_are_found_out(config, complaint):
    with pytest.raises(AssertionError, match=complaint):
        testing.check_architecture(dataclasses.replace(SOUND, config=config))


# ---------------------------------------------------------------- losses

LOSS = LossSpec("sound_loss", lambda _: ce, Options, frozenset({"classes"}), "cross-entropy")


def test_a_sound_loss_passes():
    testing.check_loss(LOSS)


def unreduced(logits, target, *, weight=None, mask=None):
    return ce(logits, target, weight=weight, mask=mask)[None]


def upside_down(logits, target, *, weight=None, mask=None):
    return -ce(logits, target, weight=weight, mask=mask)


def unmasked(logits, target, *, weight=None, mask=None):
    return ce(logits, target.clamp(0, 2), weight=weight)


def unweighted(logits, target, *, weight=None, mask=None):
    return ce(logits, target, mask=mask)


def undefined(logits, target, *, weight=None, mask=None):
    keep = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    keep = keep if weight is None else keep & (weight > 0)
    log_p = functional.log_softmax(logits.movedim(1, -1)[keep], -1)
    return functional.nll_loss(log_p, target[keep])


def coarse(logits, target, *, weight=None, mask=None):
    if logits.dtype == torch.bfloat16:
        logits = logits.round()
    return ce(logits, target, weight=weight, mask=mask)


def detached(logits, target, *, weight=None, mask=None):
    value = ce(logits, target, weight=weight, mask=mask)
    return 1.5 * value - 0.5 * value.detach()


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        (unreduced, "a scalar is expected"),
        (upside_down, "must be in this order"),
        (unmasked, "outside the mask have a gradient"),
        (unweighted, "a weight of 0"),
        (undefined, "masked altogether is not finite"),
        (coarse, "bfloat16 logits give"),
        (detached, "its gradient in float64"),
    ],
)
def test_spoilt_losses_are_found_out(loss, complaint):
    with pytest.raises(AssertionError, match=complaint):
        testing.check_loss(dataclasses.replace(LOSS, build=lambda _: loss))


def test_a_loss_that_serves_nothing_is_found_out():
    with pytest.raises(AssertionError, match="tasks is empty"):
        testing.check_loss(dataclasses.replace(LOSS, tasks=frozenset()))
