"""The sliding windows of other projects, called as their documentation does, with a network that is not theirs.

Each function makes what runs over one scan: `make(net, image_czyx, setting, folder)` returns a function without
arguments that returns logits [C, Z, Y, X] in main memory. What they need first (a file, a subject) is not part of it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ctseg.engine.model.runtime import cpu_bf16

Zyx = tuple[int, int, int]
Run = Callable[[], Any]


@dataclass(frozen=True)
class Setting:
    """What all are given.

    Attributes:
        shape_zyx: of the scan.
        tile_zyx: what the network sees at a time.
        classes: logits of the network.
        overlap: share of a tile that neighbours share.
        batch: tiles that go through the network together, for those that let one choose.
        device: of the network.
    """

    shape_zyx: Zyx
    tile_zyx: Zyx
    classes: int = 3
    overlap: float = 0.5
    batch: int = 1
    device: str = "cpu"

    @property
    def counts(self) -> Zyx:
        """Tiles along each axis."""
        return tuple(
            max(math.ceil((n - t) / (t * (1 - self.overlap))) + 1, 1)
            for n, t in zip(self.shape_zyx, self.tile_zyx, strict=True)
        )

    @property
    def tiles(self) -> int:
        return math.prod(self.counts)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what they print."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def nnunet(net: nn.Module, image_czyx: NDArray[np.float32], setting: Setting, folder: Path) -> Run:
    """nnU-Net's predictor without mirroring; on a CPU in float32, as it is there."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - setting.overlap, use_gaussian=True, use_mirroring=False,
        perform_everything_on_device=setting.device == "cuda", device=torch.device(setting.device),
        allow_tqdm=False,
    )  # fmt: skip
    some: Any = predictor  # only these two are asked for by its sliding window
    some.configuration_manager = SimpleNamespace(patch_size=list(setting.tile_zyx))
    some.label_manager = SimpleNamespace(num_segmentation_heads=setting.classes)
    some.network = net
    image = torch.from_numpy(image_czyx)
    return lambda: predictor.predict_sliding_window_return_logits(image).cpu()


def monai(net: nn.Module, image_czyx: NDArray[np.float32], setting: Setting, folder: Path) -> Run:
    """MONAI's SlidingWindowInferer with Gaussian weights, its other settings left alone."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(
        setting.tile_zyx, sw_batch_size=setting.batch, overlap=setting.overlap, mode="gaussian"
    )

    def run() -> torch.Tensor:
        with torch.inference_mode():
            image = torch.from_numpy(image_czyx)[None].to(setting.device)
            out: torch.Tensor = inferer(image, net)[0].cpu()
            return out

    return run


def torchio(net: nn.Module, image_czyx: NDArray[np.float32], setting: Setting, folder: Path) -> Run:
    """TorchIO's GridSampler and GridAggregator as in its manual, four patches a batch; Hann weights."""
    import torchio as tio

    overlap = [int(t * setting.overlap) // 2 * 2 for t in setting.tile_zyx]  # even sizes only
    subject = tio.Subject(image=tio.ScalarImage(tensor=torch.from_numpy(image_czyx)))

    def run() -> torch.Tensor:
        sampler = tio.GridSampler(subject, setting.tile_zyx, overlap)
        loader = tio.SubjectsLoader(sampler, batch_size=max(setting.batch, 4))
        aggregator = tio.GridAggregator(sampler, overlap_mode="hann")
        with torch.inference_mode():
            for batch in loader:
                inputs = batch["image"][tio.DATA].to(setting.device)
                aggregator.add_batch(net(inputs), batch[tio.LOCATION])
        return aggregator.get_output_tensor()

    return run


def pytorch3dunet(
    net: nn.Module, image_czyx: NDArray[np.float32], setting: Setting, folder: Path
) -> Run:
    """pytorch-3dunet's StandardPredictor, from an HDF5 file to one: halos of an eighth of a tile on either side.

    Its strides are chosen so that it places as many patches as the others. It compresses what it writes.
    """
    from pytorch3dunet.datasets.utils import get_test_loaders
    from pytorch3dunet.unet3d.config import TorchDevice
    from pytorch3dunet.unet3d.predictor import StandardPredictor

    halo = [t // 8 for t in setting.tile_zyx]
    patch = [t - 2 * h for t, h in zip(setting.tile_zyx, halo, strict=True)]
    stride = [
        math.ceil((n - p) / (count - 1)) if count > 1 else p
        for n, p, count in zip(setting.shape_zyx, patch, setting.counts, strict=True)
    ]
    file = folder / "pytorch3dunet.h5"
    with h5py.File(file, "w") as target:
        target["raw"] = image_czyx[0]
    builder = {
        "name": "SliceBuilder", "patch_shape": patch, "stride_shape": stride, "halo_shape": halo,
        "skip_shape_check": True,
    }  # fmt: skip
    test = {
        "file_paths": [str(file)],
        "slice_builder": builder,
        "transformer": {"raw": [{"name": "ToTensor", "expand_dims": True}]},
    }
    config = {
        "loaders": {"dataset": "StandardHDF5Dataset", "batch_size": setting.batch, "test": test},
        "device": TorchDevice(setting.device),
    }
    predictor = StandardPredictor(
        net, str(folder), setting.classes, TorchDevice(setting.device), "predictions"
    )

    def run() -> NDArray[np.float32]:
        for loader in get_test_loaders(config):
            predictor(loader)
        with h5py.File(folder / "pytorch3dunet_predictions.h5") as found:
            out: NDArray[np.float32] = found["predictions"][...]
        return out

    return run


PEERS: dict[str, Callable[[nn.Module, NDArray[np.float32], Setting, Path], Run]] = {
    "nnunet": nnunet, "monai": monai, "torchio": torchio, "pytorch3dunet": pytorch3dunet,
}  # fmt: skip


class ByHand(nn.Module):
    """What a user of theirs would wrap the network into: channels-last within, float32 outside.

    Within, it is bfloat16, too, where the device multiplies it.
    """

    def __init__(self, net: nn.Module, device: str) -> None:
        super().__init__()
        self.net: nn.Module = net.to(memory_format=torch.channels_last_3d)
        self.device, self.half = device, device != "cpu" or cpu_bf16()

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            out = self.net(x_bczyx.contiguous(memory_format=torch.channels_last_3d))
        return out.to(torch.float32, memory_format=torch.contiguous_format)
