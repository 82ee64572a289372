"""Convolutions with 8-bit integers: the ranges of their inputs, and the rounding that OpenVINO computes with integers.

An input is rounded to 256 values in the range that it had in training scans, a weight to 64 steps on either side of
zero, up to the largest one of its output channel. OpenVINO multiplies and adds up integers where it finds such
rounding; it computes all else, such as norms, in fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ctseg.card import Card
from ctseg.errors import BadInput, CorruptWeights

Ranges = Mapping[str, tuple[float, float]]
"""By the name of a convolution in its network, the smallest and the largest value of its input."""
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FEW = 8
"""Convolutions with fewer channels, such as those of the scan itself, stay as they are: they gain nothing."""
NEGLIGIBLE = 0.02
"""Negative values above minus this part of the largest value, as of a leaky ReLU, are cut off for steps of half the
size."""


@contextlib.contextmanager
def recording(network: nn.Module, ranges: dict[str, tuple[float, float]]) -> Iterator[None]:
    """Widen the ranges to what convolutions of a network take in meanwhile.

    Left out are depthwise and grouped convolutions, those of few channels, and the last one, which gives the logits.
    """
    found: dict[str, tuple[float, float]] = {}

    def listener(name: str) -> Any:
        def see(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            low, high = (float(value) for value in torch.aminmax(inputs[0]))
            before = found.get(name, (low, high))
            found[name] = (min(low, before[0]), max(high, before[1]))

        return see

    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, CONVOLUTIONS)]
    handles = [layer.register_forward_pre_hook(listener(name)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(layers)
    for name in list(found)[:-1]:  # in the order in which they were computed first
        layer, (low, high) = modules[name], found[name]
        if layer.groups == 1 and min(layer.in_channels, layer.out_channels) >= FEW and low < high:
            before = ranges.get(name, (low, high))
            ranges[name] = (min(low, before[0]), max(high, before[1]))


def ranges_on(network: nn.Module, tiles_bczyx: torch.Tensor) -> dict[str, tuple[float, float]]:
    """The ranges of a network on some tiles."""
    ranges: dict[str, tuple[float, float]] = {}
    with torch.inference_mode(), recording(network, ranges):
        network(tiles_bczyx)
    return ranges


def ranges_of(card: Card, file: str, network: nn.Module) -> Ranges:
    """The ranges that a card gives for a file of weights.

    Raises:
        BadInput: it gives none.
        CorruptWeights: they are those of another network.
    """
    name = card.name or file
    ranges: Ranges = {} if card.int8 is None else card.int8.inputs.get(file, {})
    if not ranges:
        why = "it was published without their ranges"
        if card.int8 is not None and not card.int8.inputs:
            why = "they lost too much Dice when it was published"
        raise BadInput(
            f"{name} cannot be computed with 8-bit integers: {why}.",
            hint="Use --precision auto, or publish the run again: ctseg zoo publish RUN --tag TAG --int8",
        )
    modules = dict(network.named_modules())
    strange = [layer for layer in ranges if not isinstance(modules.get(layer), CONVOLUTIONS)]
    if strange:
        raise CorruptWeights(
            f"The card of {name} has int8 ranges for '{strange[0]}', which is no convolution of its network."
        )
    return ranges


def round_convolutions(model: Any, network: nn.Module, ranges: Ranges) -> None:
    """Insert rounding before the convolutions of an `openvino.Model` that was made of the network.

    A convolution is recognised by its weights.

    Raises:
        ValueError: none has the weights of a layer that has a range.
    """
    from openvino import opset13 as operations

    modules = dict(network.named_modules())
    weights = {n: modules[n].weight.detach().float().cpu().numpy() for n in ranges}
    rounded = 0
    for node in model.get_ordered_ops():
        kind, transposed = node.get_type_name(), "ConvolutionBackpropData"
        if kind not in ("Convolution", transposed):
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant":
            continue
        values = constant.get_data()
        same = [ranges[name] for name, weight in weights.items() if np.array_equal(weight, values)]
        if not same:
            continue
        limits = steps(min(low for low, _ in same), max(high for _, high in same))
        axes = tuple(axis for axis in range(values.ndim) if axis != (kind == transposed))
        # up to 64 steps: processors without VNNI add up pairs of products in 16 bits, where 127 overflow
        largest = 127 / 64 * np.abs(values).max(axes, keepdims=True).clip(1e-12)
        for port, (low, high), levels in ((0, limits, 256), (1, (-largest, largest), 255)):
            shape = np.shape(low) or (1,) * values.ndim
            low, high = (
                operations.constant(np.full(shape, value, np.float32)) for value in (low, high)
            )
            source = node.input_value(port)
            change = operations.fake_quantize(source, low, high, low, high, levels)
            node.input(port).replace_source_output(change.output(0))
        rounded += 1
    if not rounded:
        raise ValueError("no convolution has the weights of a layer that has a range")
    model.validate_nodes_and_infer_types()


def steps(low: float, high: float) -> tuple[float, float]:
    """The smallest and the largest of the 256 values that an input is rounded to; 0 is always one of them."""
    if -low <= NEGLIGIBLE * high:
        return 0.0, high
    step = max(high / 127, -low / 128)
    return -128 * step, 127 * step
