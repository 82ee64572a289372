"""Tiled prediction with any network: `ctseg.predict_tiles`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.data.pipeline import AppliedPipeline
from ctseg.data.stream import ready
from ctseg.engine.inference import tiling
from ctseg.engine.inference.borrowed import borrowed
from ctseg.engine.inference.sliding_window import SlidingWindow
from ctseg.engine.inference.tiling_settings import TileGrid, TilingSettings
from ctseg.engine.model.measure_runtime import choose_for_tiles
from ctseg.engine.model.runtime import choose
from ctseg.errors import BadInput
from ctseg.specs import Constraints, Zyx
from ctseg.volume.geometry import Geometry

Output = Literal["logits", "probabilities", "labels"]
Activation = Literal["softmax", "sigmoid", "none"]
Array = TypeVar("Array", NDArray[Any], torch.Tensor)


def predict_tiles(
    net: torch.nn.Module,
    image_czyx: Array,
    tile_zyx: Zyx,
    overlap: tiling.Overlap = 0.5,
    blend: tiling.Blend = "gaussian",
    output: Output = "logits",
    *,
    activation: Activation | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 1,
    mirror_axes: tuple[int, ...] = (),
    constraints: Constraints = Constraints(),  # noqa: B008 - frozen
    backend: str = "auto",
    on_tiles: Callable[[int, int], None] | None = None,
) -> Array:
    """Run any network over a scan tile by tile.

    Tiles are spread evenly, and the last one is flush with the end of the scan; scans smaller than a tile are padded by
    reflection. Where tiles overlap, logits are averaged in fp32 with the weights of `blend`.

    Args:
        net: takes [B, C, Z, Y, X] and returns logits [B, K, Z, Y, X]. It is put in eval mode for the call and moved to
            the device, where it stays; everything else about it stays the same.
        image_czyx: the preprocessed scan, [C, Z, Y, X], a NumPy array or a torch tensor.
        tile_zyx: size of a tile in voxels.
        overlap: fraction of a tile that overlaps with its neighbour, 0 to under 1, for all axes or for each (z, y, x).
        blend: `gaussian` or `constant`, or one of another project (`tiling.Blend`).
        output: `logits`, `probabilities` (needs `activation`) or `labels`.
        activation: `softmax` for exclusive classes, `sigmoid` for channels, `none` for values.
        device, precision: `auto`, or as on the command line. With `auto`, half precision is compared with fp32 where
            there are enough tiles to repay it.
        batch_size: tiles in a batch.
        mirror_axes: spatial axes (0 z, 1 y, 2 x) whose mirrored views are averaged.
        constraints: constraints of the network (`ArchitectureSpec.constraints_for`). Tiles of a slice-wise network
            overlap along z only by its context, so that each slice is predicted once, with its neighbours.
        backend: what computes the network on a CPU: `torch`, `openvino`, or `auto` for what is faster where there are
            enough tiles to find out.
        on_tiles: called with (tiles done, tiles in total).

    Returns:
        float32 [K, Z, Y, X]; for `labels` int64 class indices [Z, Y, X] (softmax), or uint8 [K, Z, Y, X] with
        `activation="sigmoid"`. A tensor in main memory if the scan is a tensor, else an array.

    Raises:
        BadInput: an invalid scan, setting or network.
        RunFailed: the network returns NaN or infinite values.
    """
    array = _as_array(image_czyx)
    if output == "probabilities" and activation is None:
        raise BadInput(
            "Probabilities need an activation.", hint="activation='softmax' or 'sigmoid'"
        )
    for what, given, known in (
        ("output", output, get_args(Output)),
        ("activation", activation, (None, *get_args(Activation))),
        ("blend", blend, get_args(tiling.Blend)),
    ):
        if given not in known:
            raise BadInput(
                f"'{given}' is no {what}.", hint=f"Choose from: {', '.join(filter(None, known))}"
            )
    tile: Zyx = cast(Zyx, tuple(int(n) for n in tile_zyx))
    tiling.check(tile, overlap, constraints.context_slices)
    if batch_size < 1 or not set(mirror_axes) <= {0, 1, 2}:
        raise BadInput(
            f"A batch of {batch_size} tiles with views mirrored along {tuple(mirror_axes)} is impossible.",
            hint="batch_size is 1 or more, and mirror_axes are some of 0 (z), 1 (y) and 2 (x)",
        )
    runtime = choose(device, precision, backend)
    _, z, y, x = array.shape
    grid = Geometry((z, y, x))
    stream = ready(array, AppliedPipeline((), grid, grid))
    settings = TilingSettings(tile, overlap, blend, tuple(mirror_axes), batch_size, constraints)
    tiles = TileGrid((z, y, x), settings).tiles
    shape = (len(array), *tile)
    runtime = choose_for_tiles(runtime, net, shape, tiles, constraints, precision)
    slab: NDArray[Any]
    out: NDArray[Any] | None = None
    with borrowed(net, runtime) as placed:
        window = SlidingWindow([placed], settings, runtime, on_tiles)
        for start, (logits,) in window.slabs(stream):
            slab = _activated(logits, output, activation)
            if out is None:
                out = np.empty((*slab.shape[:-3], z, y, x), slab.dtype)
            out[..., start : start + slab.shape[-3], :, :] = slab
    assert out is not None
    return torch.from_numpy(out) if isinstance(image_czyx, torch.Tensor) else out


def _as_array(image_czyx: Any) -> NDArray[Any]:
    """The scan [C, Z, Y, X] as a NumPy array; raises BadInput for anything else."""
    if not all(hasattr(image_czyx, name) for name in ("ndim", "shape", "dtype")):
        raise BadInput(
            f"predict_tiles needs a NumPy array or a torch tensor, not a {type(image_czyx).__name__}.",
            hint="Convert it: numpy.asarray(image)",
        )
    shape = tuple(image_czyx.shape)
    if len(shape) != 4:
        hints = {3: "Add the channel axis: image[None]", 5: "Give one scan at a time: image[0]"}
        raise BadInput(
            f"predict_tiles needs [C, Z, Y, X], not {len(shape)} axes.", hint=hints.get(len(shape))
        )
    if min(shape) < 1:
        raise BadInput(f"The scan {shape} (c, z, y, x) is empty.")
    array: Any = image_czyx
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    if np.dtype(array.dtype).kind not in "fiub":
        raise BadInput(
            f"A scan holds real numbers, not {array.dtype}.",
            hint="Convert it: image.astype(numpy.float32)",
        )
    return cast(NDArray[Any], array)


def _activated(logits: torch.Tensor, output: Output, activation: Activation | None) -> NDArray[Any]:
    if len(logits) == 1 and _exclusive(output, activation):
        raise BadInput(
            "The network gives one logit a voxel, so there are no classes to compare.",
            hint="activation='sigmoid' treats each channel as a label of its own",
        )
    if output == "labels":
        values = (logits > 0).to(torch.uint8) if activation == "sigmoid" else logits.argmax(0)
    elif output == "probabilities" and activation == "softmax":
        values = logits.softmax(0)
    elif output == "probabilities" and activation == "sigmoid":
        values = logits.sigmoid()
    else:
        values = logits
    result: NDArray[Any] = values.cpu().numpy()
    return result


def _exclusive(output: Output, activation: Activation | None) -> bool:
    """Whether classes are mutually exclusive, so that the network needs at least two."""
    if output == "labels":
        return activation != "sigmoid"
    return output == "probabilities" and activation == "softmax"
