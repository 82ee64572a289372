"""Convolutions of one small sample, which PyTorch leaves to kernels of its own, computed by oneDNN."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ctseg.nets.cpu import onednn, use_cpu_kernels


def kernels(conv: nn.Conv3d, x: torch.Tensor) -> set[str]:
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as found:
        conv(x)
    return {event.key for event in found.key_averages()}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_values_are_those_of_pytorch_and_the_layout_stays(stride, layout):
    torch.manual_seed(0)
    conv = nn.Conv3d(8, 12, 3, stride, 1)
    x = torch.randn(1, 8, 6, 5, 6).contiguous(memory_format=layout)
    with torch.no_grad():
        expected = conv(x)
        with use_cpu_kernels():
            found = conv(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.is_contiguous(memory_format=layout)


def test_pytorch_passes_onednn_over_where_we_do_not():
    """If the first assertion fails, PyTorch asks oneDNN by itself, and the module can go."""
    conv, x = nn.Conv3d(8, 8, 3, padding=1), torch.randn(1, 8, 6, 6, 6)
    assert "aten::mkldnn_convolution" not in kernels(conv, x)
    with use_cpu_kernels():
        assert "aten::mkldnn_convolution" in kernels(conv, x)


def test_only_single_small_samples_without_gradient_are_taken():
    weight = torch.randn(8, 8, 3, 3, 3)
    small, large = torch.randn(1, 8, 6, 6, 6), torch.empty(1, 8, 52, 50, 2)
    assert not onednn.is_faster(small, weight)  # a gradient may be wanted
    with torch.no_grad():
        assert onednn.is_faster(small, weight)
        assert not onednn.is_faster(large, weight)
        assert not onednn.is_faster(small.expand(2, -1, -1, -1, -1), weight)
        assert not onednn.is_faster(small.double(), weight.double())
        assert not onednn.is_faster(small, torch.randn(8, 8, 1, 1, 1))
        with torch.autocast("cpu", torch.bfloat16):
            assert not onednn.is_faster(small, weight)
