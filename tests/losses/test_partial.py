"""Labels that nobody drew, against the marginal loss written out voxel by voxel."""

from __future__ import annotations

import pytest
import torch

from ctseg.engine.model.create import create_loss
from ctseg.losses.deep import DeepSupervision
from ctseg.losses.partial import without_undrawn

SHAPE = (2, 3, 4)


def logits(channels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(2, channels, *SHAPE, generator=generator, dtype=torch.float64) * 2
    return out.requires_grad_()


def test_cross_entropy_is_that_of_the_marginal():
    scores, undrawn = logits(4), [(1, 3), ()]
    target = torch.randint(0, 4, (2, *SHAPE), generator=torch.Generator().manual_seed(1))
    changed, known = without_undrawn(scores, target, undrawn)
    found = create_loss("ce")(changed, known)
    p, expected = scores.softmax(1), []
    for sample, hidden in enumerate(undrawn):
        for z in range(SHAPE[0]):
            for y in range(SHAPE[1]):
                for x in range(SHAPE[2]):
                    label = int(target[sample, z, y, x])
                    group = [0, *hidden] if label in (0, *hidden) else [label]
                    expected.append(-p[sample, group, z, y, x].sum().log())
    reference = torch.stack(expected).mean()
    torch.testing.assert_close(found, reference)
    one, two = (
        torch.autograd.grad(value, scores, retain_graph=True)[0] for value in (found, reference)
    )
    torch.testing.assert_close(one, two)


def test_dice_counts_the_classes_that_were_drawn():
    scores = logits(3)
    target = torch.randint(0, 3, (2, *SHAPE), generator=torch.Generator().manual_seed(1))
    target[target == 2] = 0  # nobody drew class 2
    changed, known = without_undrawn(scores, target, [(2,), (2,)])
    found = create_loss("dice", class_weights=[0, 1, 0], batch=True)(changed, known)
    p = scores.softmax(1)[:, 1]
    inside = (target == 1).double()
    both, smooth = 2 * (p * inside).sum(), 1e-5
    reference = 1 - (both + smooth) / (p.sum() + inside.sum() + smooth)
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(create_loss("dice")(changed, known), scores)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["bce", "bce_dice"])
def test_an_undrawn_channel_has_no_loss_and_no_gradient(name):
    scores, target = logits(3), (torch.rand(2, 3, *SHAPE, dtype=torch.float64) > 0.5).double()
    changed, known = without_undrawn(scores, target, [(1,), (1,)])
    (gradient,) = torch.autograd.grad(create_loss(name)(changed, known), scores)
    assert (gradient[:, 1] == 0).all()
    rest = [0, 2]
    alone = scores.detach()[:, rest].requires_grad_()
    loss = create_loss(name)(alone, target[:, rest])
    expected = torch.autograd.grad(loss, alone)[0] * 2 / 3  # the mean is over three channels
    torch.testing.assert_close(gradient[:, rest], expected)


def test_without_undrawn_labels_nothing_changes():
    scores, target = logits(3), torch.zeros(2, *SHAPE, dtype=torch.int64)
    changed, known = without_undrawn(scores, target, [(), ()])
    torch.testing.assert_close(changed, scores, rtol=0, atol=0)
    assert torch.equal(known, target)


@pytest.mark.parametrize("name", ["dice_ce", "focal", "tversky", "ce", "dice_topk"])
def test_losses_stay_finite_in_half_precision(name):
    levels = tuple(
        logits(3).detach().bfloat16().repeat_interleave(2, 2).requires_grad_() for _ in range(2)
    )
    target = torch.randint(0, 3, (2, 4, 3, 4), generator=torch.Generator().manual_seed(1))
    changed, known = without_undrawn(levels, target, [(1,), (2,)])
    loss = DeepSupervision(create_loss(name))(changed, known)
    loss.backward()
    assert loss.isfinite() and levels[0].grad.isfinite().all()
