"""Losses against those of MONAI, pytorch-3dunet and nnU-Net on the same random tensors."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from tests.losses.by_name import (
    bce,
    bce_dice,
    boundary,
    ce,
    cldice,
    dice,
    dice_ce,
    dice_topk,
    focal,
    focal_tversky,
    generalized_dice,
    l1,
    mse,
    smooth_l1,
    tversky,
    wce,
    weighted_smooth_l1,
)

TINY = 1e-12
SHAPE = (2, 3, 6, 7, 8)


@pytest.fixture(params=range(3))
def tensors(request) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, class indices, and channels of 0 and 1."""
    torch.manual_seed(request.param)
    return (
        2 * torch.randn(SHAPE),
        torch.randint(0, 3, (2, 6, 7, 8)),
        (torch.rand(SHAPE) > 0.6).float(),
    )


def agree(ours: torch.Tensor, theirs: torch.Tensor | float) -> None:
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def peer(module: str) -> Any:
    """A peer's module; the test is skipped where it is not installed."""
    pytest.importorskip(module.partition(".")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module)


# ---------------------------------------------------------------- pytorch-3dunet


def test_pytorch3dunet_segmentation(tensors):
    theirs = peer("pytorch3dunet.unet3d.losses")
    logits, classes, channels = tensors
    over_batch = {"batch": True, "smooth": TINY}
    agree(dice(logits, channels, squared=True, **over_batch), theirs.DiceLoss()(logits, channels))
    weights = torch.tensor([0.5, 1.0, 1.5])
    agree(
        dice(logits, channels, squared=True, **over_batch, class_weights=weights.tolist()),
        theirs.DiceLoss(weight=weights)(logits, channels),
    )
    one_hot = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float()
    agree(
        dice(logits, classes, squared=True, include_background=True, **over_batch),
        theirs.DiceLoss(normalization="softmax")(logits, one_hot),
    )
    agree(
        generalized_dice(logits, channels, batch=True),
        theirs.GeneralizedDiceLoss()(logits, channels),
    )
    agree(
        generalized_dice(logits[:, :1], channels[:, :1], batch=True),
        theirs.GeneralizedDiceLoss()(logits[:, :1], channels[:, :1]),
    )
    agree(wce(logits, classes), theirs.WeightedCrossEntropyLoss()(logits, classes))
    agree(
        bce_dice(logits, channels, squared=True, alpha=1.0, beta=0.7, **over_batch),
        theirs.BCEDiceLoss(alpha=0.7)(logits, channels),
    )
    configured = {"name": "BCEWithLogitsLoss", "pos_weight": [3.0], "ignore_index": None}
    config = {"loss": configured, "device": "cpu"}
    agree(
        bce(logits, channels, pos_weight=(3.0,)),
        theirs.get_loss_criterion(config)(logits, channels),
    )
    config = {"loss": {"name": "CrossEntropyLoss", "weight": [1.0, 2.0, 3.0]}, "device": "cpu"}
    agree(
        ce(logits, classes, class_weights=(1, 2, 3)),
        theirs.get_loss_criterion(config)(logits, classes),
    )


def test_pytorch3dunet_ignores_and_skips(tensors):
    theirs = peer("pytorch3dunet.unet3d.losses")
    logits, classes, channels = tensors
    mask = torch.rand(classes.shape) > 0.3
    ignored = classes.masked_fill(~mask, -1)
    agree(
        ce(logits, ignored, mask=mask),
        theirs.get_loss_criterion(
            {"loss": {"name": "CrossEntropyLoss", "ignore_index": -1}, "device": "cpu"}
        )(logits, ignored),
    )
    # what is masked is a logit of 0 there, so it agrees without an activation only
    values = channels.masked_fill(~mask[:, None], -1)
    masked = theirs.MaskingLossWrapper(torch.nn.MSELoss(reduction="sum"), -1)(logits, values)
    agree(mse(logits, values, mask=mask) * 3 * mask.sum(), masked)
    extra = torch.cat((channels, torch.rand(2, 1, 6, 7, 8)), 1)
    agree(
        dice(logits, extra[:, :-1], squared=True, batch=True, smooth=TINY),
        theirs.SkipLastTargetChannelWrapper(theirs.DiceLoss())(logits, extra),
    )


def test_pytorch3dunet_regression(tensors):
    theirs = peer("pytorch3dunet.unet3d.losses")
    prediction, _, _ = tensors
    target = 2 * torch.randn(SHAPE)
    for ours, name in ((mse, "MSELoss"), (l1, "L1Loss"), (smooth_l1, "SmoothL1Loss")):
        made = theirs.get_loss_criterion({"loss": {"name": name}, "device": "cpu"})
        agree(ours(prediction, target), made(prediction, target))
    for below in (True, False):
        made = theirs.WeightedSmoothL1Loss(0.3, 0.1, apply_below_threshold=below)
        agree(
            weighted_smooth_l1(prediction, target, threshold=0.3, factor=0.1, below=below),
            made(prediction, target),
        )


# ---------------------------------------------------------------- nnU-Net


# its TopKLoss asks torch for no reduction in the old way
OLD = pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_nnunet_dice(tensors, batch, background):
    theirs = peer("nnunetv2.training.loss.dice")
    logits, classes, channels = tensors
    mask = torch.rand(classes.shape) > 0.3
    made = theirs.MemoryEfficientSoftDiceLoss(
        apply_nonlin=lambda x: x.softmax(1),
        batch_dice=batch,
        do_bg=background,
        smooth=1e-5,
        ddp=False,
    )
    ours = {"batch": batch, "include_background": background}
    agree(dice(logits, classes, **ours), 1 + made(logits, classes[:, None]))
    agree(
        dice(logits, classes, mask=mask, **ours),
        1 + made(logits, classes[:, None], loss_mask=mask[:, None]),
    )
    if background:
        made = theirs.MemoryEfficientSoftDiceLoss(
            apply_nonlin=torch.sigmoid, batch_dice=batch, smooth=1e-5, ddp=False
        )
        agree(dice(logits, channels, batch=batch), 1 + made(logits, channels))


@OLD
def test_nnunet_cross_entropies(tensors):
    theirs = peer("nnunetv2.training.loss.robust_ce_loss")
    logits, classes, _ = tensors
    agree(ce(logits, classes), theirs.RobustCrossEntropyLoss()(logits, classes[:, None].float()))
    agree(
        dice_topk(logits, classes, dice_weight=0.0),
        theirs.TopKLoss(k=10)(logits, classes[:, None].float()),
    )


@OLD
def test_nnunet_sums(tensors):
    theirs = peer("nnunetv2.training.loss.compound_losses")
    soft = peer("nnunetv2.training.loss.dice").MemoryEfficientSoftDiceLoss
    logits, classes, channels = tensors
    options = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    made = theirs.DC_and_CE_loss(dict(options), {}, dice_class=soft)
    agree(dice_ce(logits, classes), 1 + made(logits, classes[:, None]))
    ignoring = theirs.DC_and_CE_loss(dict(options), {}, ignore_label=3, dice_class=soft)
    mask = torch.rand(classes.shape) > 0.3
    held = classes.masked_fill(~mask, 3)
    agree(dice_ce(logits, held, mask=mask), 1 + ignoring(logits, held[:, None]))
    worst = theirs.DC_and_topk_loss(dict(options), {"k": 20})
    agree(dice_topk(logits, classes, k=20), 1 + worst(logits, classes[:, None]))
    both = theirs.DC_and_BCE_loss({}, options | {"do_bg": True})
    agree(bce_dice(logits, channels), 1 + both(logits, channels))


# ---------------------------------------------------------------- MONAI


def test_monai_overlaps(tensors):
    theirs = peer("monai.losses")
    logits, classes, channels = tensors
    labels = classes[:, None]
    softmax = {"softmax": True, "to_onehot_y": True}
    for squared in (False, True):
        for batch in (False, True):
            made = theirs.DiceLoss(
                **softmax, squared_pred=squared, batch=batch, include_background=False
            )
            agree(dice(logits, classes, squared=squared, batch=batch), made(logits, labels))
    made = theirs.TverskyLoss(**softmax, alpha=0.2, beta=0.9, include_background=False)
    agree(tversky(logits, classes, alpha=0.2, beta=0.9), made(logits, labels))
    made = theirs.GeneralizedDiceLoss(**softmax, smooth_nr=TINY, smooth_dr=TINY)
    agree(generalized_dice(logits, classes), made(logits, labels))
    absent = labels.clamp_max(1)  # class 2 is nowhere and weighs like the rarer of the others
    agree(generalized_dice(logits, absent[:, 0]), made(logits, absent))
    made = theirs.GeneralizedDiceLoss(sigmoid=True, batch=True, smooth_nr=TINY, smooth_dr=TINY)
    agree(generalized_dice(logits, channels, batch=True), made(logits, channels))
    two = logits[:, :2]
    part = peer("monai.losses.unified_focal_loss").AsymmetricFocalTverskyLoss
    made = part(to_onehot_y=True, delta=0.7, gamma=0.75, epsilon=1e-7, reduction="none")
    foreground = made(two.softmax(1), absent)[:, 1].mean()
    agree(focal_tversky(two, absent[:, 0], alpha=0.3, beta=0.7, gamma=4, smooth=1e-7), foreground)


def test_monai_focal(tensors):
    theirs = peer("monai.losses")
    logits, classes, channels = tensors
    for gamma in (0.0, 0.5, 2.0):
        for alpha in (None, 0.8):
            options = {"gamma": gamma, "alpha": alpha}
            agree(focal(logits, channels, **options), theirs.FocalLoss(**options)(logits, channels))
            made = theirs.FocalLoss(**options, to_onehot_y=True, use_softmax=True)
            agree(focal(logits, classes, **options) / 3, made(logits, classes[:, None]))


def test_monai_cldice_and_boundary(tensors):
    theirs = peer("monai.losses")
    logits, _, channels = tensors
    smooth_logits = torch.nn.functional.avg_pool3d(logits, 3, 1, 1)
    made = theirs.SoftclDiceLoss(iter_=2, sigmoid=True, smooth=TINY)
    agree(cldice(smooth_logits, channels, alpha=1.0, iterations=2), made(smooth_logits, channels))
    if not hasattr(theirs, "BoundaryLoss"):
        pytest.skip("this MONAI has no boundary loss")
    made = theirs.BoundaryLoss(sigmoid=True)
    agree(
        boundary(logits, channels, region_weight=0.0, boundary_weight=1.0), made(logits, channels)
    )
