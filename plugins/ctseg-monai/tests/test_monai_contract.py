"""The networks and the loss keep ctseg's contract, and are MONAI's."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss, TverskyLoss
from monai.networks.nets import SegResNet

import ctseg
from ctseg import plugins, testing
from ctseg.errors import ConfigError
from ctseg.specs import NetworkPlan
from ctseg_monai.options import SegResNetConfig, SwinUNETRConfig, TverskyConfig
from ctseg_monai.unet_options import DynUNetConfig, UNetConfig, UNETRConfig

SMALL = {
    "monai_segresnet": SegResNetConfig(init_filters=8),
    "monai_swinunetr": SwinUNETRConfig(feature_size=12, depths=(1, 1, 1, 1)),
}


def test_everything_is_registered_with_its_provenance():
    entry = plugins.registry().get("architecture", "monai_segresnet")
    assert entry.plugin.package == "ctseg-monai"
    assert entry.plugin.version == "0.1.0"
    provided = plugins.registry().provided_by(entry.plugin)
    names = ["segresnet", "swinunetr", "unet", "dynunet", "unetr"]
    assert provided["architecture"] == [f"monai_{name}" for name in names]
    assert provided["importer"] == ["monai"]
    assert provided["loss"] == ["monai_tversky"]


def test_segresnet_keeps_the_contract():
    spec = plugins.architecture("monai_segresnet")
    testing.check_architecture(spec, config=SMALL["monai_segresnet"])


@pytest.mark.slow
def test_swinunetr_keeps_the_contract():
    spec = plugins.architecture("monai_swinunetr")
    testing.check_architecture(spec, config=SMALL["monai_swinunetr"], in_channels=1, overfit=False)


def test_tversky_keeps_the_contract():
    testing.check_loss(plugins.loss("monai_tversky"))


def test_segresnet_is_monais():
    net = ctseg.create_model("monai_segresnet", in_channels=1, out_channels=2, init_filters=8)
    theirs = SegResNet(init_filters=8, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))
    theirs.load_state_dict(net.state_dict())
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("batch", [False, True])
def test_tversky_has_monais_values(batch):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    options = {"alpha": 0.2, "beta": 0.9, "batch": batch}
    ours = ctseg.create_loss("monai_tversky", **options)
    theirs = TverskyLoss(softmax=True, to_onehot_y=True, include_background=False, **options)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target[:, None]))
    channels = torch.randint(0, 2, logits.shape).float()
    theirs = TverskyLoss(sigmoid=True, **options)
    torch.testing.assert_close(ours(logits, channels), theirs(logits, channels))


def test_a_voxel_of_weight_two_counts_as_two_voxels():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 1, 1, 4), torch.randint(0, 3, (1, 1, 1, 4))
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0]).reshape(1, 1, 1, 4)
    twice = torch.tensor([0, 1, 1, 2, 3])
    loss = ctseg.create_loss("monai_tversky")
    doubled = loss(logits[..., twice], target[..., twice])
    torch.testing.assert_close(loss(logits, target, weight=weight), doubled)


def test_the_losses_in_the_box_have_monais_values():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 3, 4, 5), torch.randint(0, 4, (2, 3, 4, 5))
    options = {"softmax": True, "to_onehot_y": True}
    for name, settings, theirs in (
        ("dice", {}, DiceLoss(include_background=False, **options)),
        ("dice", {"squared": True, "batch": True, "include_background": True},
         DiceLoss(squared_pred=True, batch=True, **options)),
        ("dice_ce", {"include_background": True}, DiceCELoss(**options)),
    ):  # fmt: skip
        ours = ctseg.create_loss(name, **settings)
        torch.testing.assert_close(ours(logits, target), theirs(logits, target[:, None]))
    channels = torch.randint(0, 2, logits.shape).float()
    ours, theirs = ctseg.create_loss("dice"), DiceLoss(sigmoid=True)
    torch.testing.assert_close(ours(logits, channels), theirs(logits, channels))


def test_depth_follows_the_patch():
    spec = plugins.architecture("monai_segresnet")
    for patch, stride in (((64, 64, 64), 8), ((20, 64, 64), 4), ((8, 64, 64), 2)):
        config = spec.from_plan(NetworkPlan(patch, (1.0, 1.0, 1.0), 1, 2))
        assert spec.constraints_for(config).stride_zyx == (stride,) * 3


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (SegResNetConfig, {"blocks_down": (1, 2)}),
        (SegResNetConfig, {"init_filters": 10}),
        (SegResNetConfig, {"num_groups": 0}),
        (SegResNetConfig, {"dropout": 1.0}),
        (SwinUNETRConfig, {"feature_size": 20}),
        (SwinUNETRConfig, {"num_heads": (5, 6, 12, 24)}),
        (SwinUNETRConfig, {"drop_path": -0.1}),
        (SwinUNETRConfig, {"window_size": 0}),
        (TverskyConfig, {"smooth": 0.0}),
        (TverskyConfig, {"alpha": 0.0, "beta": 0.0}),
    ],
)
def test_impossible_options_are_refused(config, options):
    with pytest.raises(ConfigError):
        config(**options)


def test_listing_does_not_import_monai():
    code = (
        "import sys; from ctseg import plugins; plugins.names('architecture'); "
        "plugins.names('loss'); print({'monai', 'torch', 'einops'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


UNETS = {
    "monai_unet": UNetConfig(channels=(8, 16, 16), strides_zyx=((2, 2, 2), (1, 2, 2))),
    "monai_dynunet": DynUNetConfig(
        filters=(8, 16, 16), kernels_zyx=((3, 3, 3),) * 3, strides_zyx=((2, 2, 2), (1, 2, 2))
    ),
    "monai_unetr": UNETRConfig(
        tile_zyx=(16, 16, 16), feature_size=4, hidden_size=12, mlp_dim=16, num_heads=2
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNETS)
def test_unets_keep_the_contract(name):
    testing.check_architecture(
        plugins.architecture(name), config=UNETS[name], overfit=name == "monai_unet"
    )


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("patch", [(32, 64, 64), (16, 16, 16), (4, 48, 48)])
def test_planned_unets_accept_a_patch(name, patch):
    spec = plugins.architecture(name)
    demands = spec.constraints_for(spec.from_plan(NetworkPlan(patch, (1.0, 1.0, 1.0), 1, 2)))
    tile = demands.fit(patch)
    assert demands.fit(tile) == tile
    assert all(a >= b for a, b in zip(tile, patch, strict=True))


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (UNetConfig, {"channels": (8,)}),
        (UNetConfig, {"kernel_zyx": (2, 3, 3)}),
        (UNetConfig, {"order": "NN"}),
        (UNetConfig, {"dropout": 1.0}),
        (DynUNetConfig, {"kernels_zyx": ((3, 3, 3),)}),
        (DynUNetConfig, {"strides_zyx": ((0, 1, 1),) * 5}),
        (UNETRConfig, {"tile_zyx": (20, 16, 16)}),
        (UNETRConfig, {"num_heads": 5}),
    ],
)
def test_impossible_unets_are_refused(config, options):
    with pytest.raises(ConfigError):
        config(**options)
