"""nnU-Net's networks, made by its own library from plans that its own planner wrote, against ours.

The plans in `plans/` were written by nnU-Net 2.7.0 (`nnUNetv2_plan_experiment`): `hippocampus*` from the scans of
Task04, `thick` and `sagittal_resenc` from a fingerprint with the shape and spacing of the prostate MR of Task05, in
the latter with the coarse axis last.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from ctseg import plugins
from ctseg.errors import BadInput
from ctseg.nets.foreign import nnunet

dna = pytest.importorskip("dynamic_network_architectures.architectures.unet")

CLOSE = 1e-5
PLANS = Path(__file__).parent / "plans"
RESENC = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def read(name: str, width: int | None = None) -> dict:
    """Plans, with the widths cut down to `width` times 1, 2, 3, ... where it is given."""
    plans = json.loads((PLANS / f"{name}.json").read_text())
    if width:
        for configuration in plans["configurations"].values():
            kwargs = configuration["architecture"]["arch_kwargs"]
            kwargs["features_per_stage"] = [width * (i + 1) for i in range(kwargs["n_stages"])]
    return plans


def located(kwargs: dict) -> dict:
    """The arguments with classes in place of their names."""
    import pydoc

    found = dict(kwargs)
    for key in ("conv_op", "norm_op", "dropout_op", "nonlin"):
        if isinstance(found.get(key), str):
            found[key] = pydoc.locate(found[key])
    return found


def theirs(architecture: dict, *, channels: int, classes: int) -> torch.nn.Module:
    cls = getattr(dna, architecture["network_class_name"].rsplit(".", 1)[-1])
    net = cls(
        input_channels=channels, num_classes=classes, deep_supervision=True,
        **located(architecture["arch_kwargs"]),
    )  # fmt: skip
    return randomised(net)


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """Norms and biases away from their neutral start, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.ndim == 1 and tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(
                    1 + 0.2 * noise if name.endswith(("norm.weight", "var")) else noise * 0.2
                )
    return net


def ours(network, state, *, channels: int, classes: int) -> torch.nn.Module:
    assert nnunet.channels(state) == (channels, classes)
    spec = plugins.architecture(network.architecture)
    net = spec.build(network.config, in_channels=channels, out_channels=classes)
    net.load_state_dict(nnunet.map_state(state, network), strict=True)
    return net


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


CASES = [
    ("hippocampus", "unet3d", (16, 24, 16)),
    ("hippocampus_resenc", "residual_unet3d", (16, 24, 16)),
    ("thick", "unet3d", (8, 64, 128)),
    ("sagittal_resenc", "residual_unet3d", (64, 128, 8)),
]


@pytest.mark.parametrize(("name", "architecture", "shape"), CASES)
def test_every_head_gives_the_logits_of_nnunet(name, architecture, shape):
    torch.manual_seed(0)
    plans = read(name, width=4)
    reference = theirs(plans["configurations"]["3d_fullres"]["architecture"], channels=2, classes=3)
    network = nnunet.read_plans(plans)
    assert network.architecture == architecture
    net = ours(network, reference.state_dict(), channels=2, classes=3)
    x = torch.randn(1, 2, *shape)
    turn = [0, 1, *(2 + axis for axis in plans["transpose_forward"])]
    back = [0, 1, *(2 + axis for axis in plans["transpose_backward"])]
    with torch.no_grad():
        expected = reference(x.permute(turn))
        found = net.train()(
            x
        )  # without dropout and batch norm training is evaluation, with all heads
        assert len(found) == len(expected) == len(network.config.features) - 1
        assert len({level.shape for level in found}) == len(found)
        for level, other in zip(found, expected, strict=True):
            assert difference(level, other.permute(back)) < CLOSE
        assert torch.equal(net.eval()(x), found[0])


@pytest.mark.parametrize("name", ["hippocampus", "hippocampus_resenc"])
def test_the_real_widths_on_a_small_patch(name):
    torch.manual_seed(1)
    plans = read(name)
    reference = theirs(plans["configurations"]["3d_fullres"]["architecture"], channels=1, classes=3)
    network = nnunet.read_plans(plans, deep_supervision=False)
    assert network.config.features == (32, 64, 128, 256)
    net = ours(network, reference.state_dict(), channels=1, classes=3).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert difference(net(x), reference(x)[0]) < CLOSE


def test_options_of_the_plans_are_read():
    thick = nnunet.read_plans(read("thick")).config
    assert thick.features == (32, 64, 128, 256, 320, 320, 320)
    assert thick.kernels_zyx[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))
    assert thick.strides_zyx == ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    turned = nnunet.read_plans(read("sagittal_resenc")).config
    assert turned.kernels_zyx[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    assert turned.strides_zyx[0] == (2, 2, 1)
    assert turned.blocks == (1, 3, 4, 6, 6, 6, 6)


BASE = read("hippocampus", width=4)["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
PLAIN_VARIANTS = [
    {"nonlin_first": True, "dropout_op": "torch.nn.Dropout3d", "dropout_op_kwargs": {"p": 0.3}},
    {"n_conv_per_stage": [1, 2, 3, 1], "n_conv_per_stage_decoder": [1, 3, 2], "conv_bias": False},
    {"norm_op": "torch.nn.BatchNorm3d", "norm_op_kwargs": {"eps": 1e-3}, "nonlin": "torch.nn.ReLU"},
    {"norm_op": None, "norm_op_kwargs": None, "nonlin_kwargs": {"negative_slope": 0.2}},
    {"kernel_sizes": 3, "features_per_stage": 4, "n_conv_per_stage": 2,
     "dropout_op": "torch.nn.Dropout", "dropout_op_kwargs": {"p": 0.3}},
]  # fmt: skip
RESIDUAL_VARIANTS = [
    {"stem_channels": 6, "n_conv_per_stage_decoder": [2, 1, 2]},
    {"norm_op": "torch.nn.BatchNorm3d", "conv_bias": False, "dropout_op": "torch.nn.Dropout3d",
     "dropout_op_kwargs": {"p": 0.3}},
    {"features_per_stage": 4},  # strided shortcuts without a projection
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changed"),
    [(PLAIN, changed) for changed in PLAIN_VARIANTS]
    + [(RESENC, changed) for changed in RESIDUAL_VARIANTS],
    ids=str,
)
def test_arguments_that_its_planner_never_sets(name, changed):
    torch.manual_seed(2)
    kwargs = {**BASE, **changed}
    if name == RESENC:
        del kwargs["n_conv_per_stage"]
        kwargs |= {"n_blocks_per_stage": [1, 2, 1, 2]}
    arguments = {"network_class_name": name, "arch_kwargs": kwargs}
    reference = theirs(arguments, channels=1, classes=2).eval()
    network = nnunet.read_architecture(name, kwargs)
    net = ours(network, reference.state_dict(), channels=1, classes=2).eval()
    assert has_dropout(net) == has_dropout(reference)
    x = torch.randn(2, 1, 16, 8, 8)
    with torch.no_grad():
        assert difference(net(x), reference(x)[0]) < CLOSE


def has_dropout(net: torch.nn.Module) -> set[str]:
    return {type(m).__name__ for m in net.modules() if type(m).__name__.startswith("Dropout")}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("name", "architecture"),
    [("hippocampus", "unet2d"), ("hippocampus_resenc", "residual_unet2d")],
)
def test_two_dimensional_plans_run_slice_by_slice(name, architecture, swapped):
    """Also where the plans exchange the axes within the plane."""
    torch.manual_seed(3)
    plans = read(name, width=4)
    reference = theirs(plans["configurations"]["2d"]["architecture"], channels=1, classes=3)
    plans["transpose_forward"] = [0, 2, 1] if swapped else [0, 1, 2]
    network = nnunet.read_plans(plans, "2d")
    assert network.architecture == architecture
    net = ours(network, reference.state_dict(), channels=1, classes=3).eval()
    x = torch.randn(1, 1, 3, 16, 32)
    with torch.no_grad():
        found = net(x)[0].transpose(0, 1)
        slices = x[0].transpose(0, 1)
        if swapped:
            found, slices = found.transpose(2, 3), slices.transpose(2, 3)
        assert difference(found, reference(slices)[0]) < CLOSE


def test_old_plans_and_inherited_configurations_say_the_same_as_new_ones():
    new = read("thick")
    old = copy.deepcopy(new)
    settings = old["configurations"]["3d_fullres"]
    kwargs = settings.pop("architecture")["arch_kwargs"]
    settings |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": kwargs["n_conv_per_stage"],
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "pool_op_kernel_sizes": kwargs["strides"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
    }
    old["configurations"]["3d_cascade"] = {"inherits_from": "3d_fullres", "batch_size": 1}
    expected = nnunet.read_plans(new)
    assert nnunet.read_plans(old) == expected
    assert nnunet.read_plans(old, "3d_cascade") == expected


def test_names_left_by_compilation_and_parallel_training_are_understood():
    reference = theirs({"network_class_name": PLAIN, "arch_kwargs": BASE}, channels=1, classes=2)
    network = nnunet.read_architecture(PLAIN, BASE)
    state = reference.state_dict()
    wrapped = {f"_orig_mod.module.{key}": value for key, value in state.items()}
    plain = nnunet.map_state(state, network)
    assert plain.keys() == nnunet.map_state(wrapped, network).keys()
    one_of_each = {key: value for key, value in state.items() if ".conv." not in key}
    assert plain.keys() == nnunet.map_state(one_of_each, network).keys()


def test_networks_without_a_counterpart_are_refused():
    for changed, found in (
        ({"block": "building_blocks.residual.BottleneckD"}, "Bottleneck"),
        ({"strides": [[2, 2, 2]] * 4}, "first stage"),
        ({"norm_op": "torch.nn.GroupNorm"}, "GroupNorm"),
        ({"norm_op_kwargs": {}}, "affine"),
        ({"squeeze": True}, "squeeze"),
        ({"conv_op": "torch.nn.Conv1d"}, "Conv1d"),
        ({"n_conv_per_stage": [2]}, "4 numbers"),
        ({"kernel_sizes": [[3, 3]] * 4}, "3 numbers"),
        ({"kernel_sizes": [[3, 3, 3]] * 3}, "4 levels"),
        ({"nonlin": "torch.nn.GELU", "nonlin_first": True}, "order"),
    ):
        with pytest.raises(BadInput, match=found):
            nnunet.read_architecture(PLAIN, {**BASE, **changed})
    with pytest.raises(BadInput, match="Primus"):
        nnunet.read_architecture("architectures.primus.Primus", BASE)
    with pytest.raises(BadInput, match="3d_lowres") as caught:
        nnunet.read_plans(read("hippocampus"), "3d_lowres")
    assert "3d_fullres" in str(caught.value.hint)
    with pytest.raises(BadInput, match="another axis"):
        nnunet.read_plans({**read("hippocampus"), "transpose_forward": [1, 0, 2]}, "2d")
    with pytest.raises(BadInput, match="transpose_forward"):
        nnunet.read_plans({**read("hippocampus"), "transpose_forward": [0, 1]})
    with pytest.raises(BadInput, match="VNet"):
        nnunet.read_plans({"configurations": {"3d_fullres": {"UNet_class_name": "VNet"}}})
    with pytest.raises(BadInput, match="running statistics"):
        nnunet.read_architecture(
            PLAIN, {**BASE, "norm_op_kwargs": {"affine": True, "track_running_stats": True}}
        )
    network = nnunet.read_architecture(PLAIN, BASE)
    with pytest.raises(BadInput, match=r"primus\.blocks"):
        nnunet.map_state({"primus.blocks.0.weight": torch.zeros(1)}, network)
    with pytest.raises(BadInput, match="no first convolution"):
        nnunet.channels({"x": torch.zeros(1)})
