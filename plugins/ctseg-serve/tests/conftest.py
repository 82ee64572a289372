"""A tiny model, its scans, and servers on free ports."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ctseg
from ctseg.card import Card, Provider, TrainingData, TrainingScans
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.engine.inference.model import Model, NetworkModel
from ctseg.engine.model.create import create_model
from ctseg.engine.model.runtime import choose
from ctseg.engine.model.weights import save_weights
from ctseg.task import classes_task
from ctseg_serve.app import Service
from ctseg_serve.server import Server, listen
from tests.volume.formats.dicom.dicom_files import dataset, save

NAME = "unet3d.tiny_v1"
SPACING = (0.8, 0.9, 2.0)


def _card(**more: Any) -> Card:
    fields = {
        "name": NAME, "architecture": "unet3d", "options": {"features": [2, 4]},
        "provider": Provider(package="ctseg"), "in_channels": 1, "out_channels": 3, "channels": ("CT",),
        "task": TaskConfig.of(classes_task({"ball": 1, "shell": 2})), "preprocess": PreprocessConfig(),
        "predict": PredictConfig(tile_zyx=(8, 8, 8)), "training_data": TrainingData(name="Balls"),
    }  # fmt: skip
    return Card(**(fields | more))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file with random weights, which knows the spacing of its training."""
    return _weights(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def _weights(path: Path, **more: Any) -> Path:
    torch.manual_seed(0)
    net = create_model("unet3d", in_channels=1, out_channels=3, features=(2, 4))
    seen = TrainingScans(
        spacing_min_zyx=SPACING[::-1], spacing_max_zyx=SPACING[::-1], intensity_low=(-200.0,),
        intensity_high=(200.0,), modalities=("CT",),
    )  # fmt: skip
    save_weights(path, net.state_dict(), _card(training_scans=seen, card_version=2, **more))
    return path


def _array(seed: int = 0, shape: tuple[int, int, int] = (9, 12, 14)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 60, shape).round().astype(np.int16)


def _scan(path: Path, array: np.ndarray, spacing_xyz: tuple[float, ...] = SPACING) -> Path:
    volume = ctseg.Volume.from_array(array, spacing_xyz=spacing_xyz, origin_xyz=(3.0, -4.0, 5.0))
    ctseg.write(volume, path)
    return path


def _series(folder: Path, array: np.ndarray, uid: str = "1.2.3", **tags: Any) -> Path:
    """A CT series, a file for each slice, in the spacing of training."""
    for k, plane in enumerate(array):
        slice_ = dataset(
            plane, position=(1.0, 2.0, 2.0 * k), spacing_yx=(0.9, 0.8), uid=uid, instance=k + 1,
            rescale=(1, 0), PatientID="P1", PatientName="Roe^Jane", **tags,
        )  # fmt: skip
        save(slice_, folder / f"{uid[-1]}{(k * 5) % 7}{k}.dcm", plane)
    return folder


class Gate(torch.nn.Module):
    """A network that waits in its first tile until the test opens it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.open = threading.Event(), threading.Event()
        self.tiles = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.tiles += 1
        self.reached.set()
        assert self.open.wait(30)
        return torch.cat([x, -x, x * 0], 1)


@dataclass
class Running:
    """A server in a thread of this process."""

    service: Service
    server: Server
    url: str
    said: list[str] = field(default_factory=list)

    @property
    def host(self) -> tuple[str, int]:
        name, _, port = self.url.removeprefix("http://").rpartition(":")
        return name, int(port)

    def left(self) -> list[str]:
        """Files of requests."""
        return sorted(str(p.relative_to(self.service.root)) for p in self.service.root.rglob("*"))


@contextlib.contextmanager
def _serving(model: Model, root: Path, name: str = NAME, **options: Any) -> Iterator[Running]:
    said: list[str] = []
    root.mkdir(parents=True, exist_ok=True)
    service = Service(model, name, root, on_say=said.append, **options)
    with listen("127.0.0.1", 0) as listening:
        server = Server(service, said.append)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Running(service, server, url, said)
        finally:
            with contextlib.suppress(RuntimeError):  # its loop may have ended meanwhile
                for _ in range(2):  # as two signals do
                    server.handle_exit(signal.SIGTERM, None)
            thread.join(30)
            service.queue.close()
            assert not thread.is_alive()


Start = Callable[..., Any]


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Makes input: `array(seed, shape)` is noise, `scan(path, array)` a file, `series(folder, array)` DICOM files,
    `weights(path, **card)` a weight file."""
    return SimpleNamespace(array=_array, scan=_scan, series=_series, weights=_weights)


@pytest.fixture(scope="session")
def serving(weights: Path) -> Start:
    """A context that runs a server with the tiny model, or a network of the test's; keywords as for `Service`."""

    def start(root: Path, network: torch.nn.Module | None = None, **options: Any) -> Any:
        model = (
            ctseg.load(weights, device="cpu", precision="fp32").model
            if network is None
            else NetworkModel(_card(), [network], choose("cpu", "fp32"))
        )
        return _serving(model, root, **options)

    return start


@pytest.fixture
def serve(tmp_path: Path, serving: Start) -> Iterator[Start]:
    """Starts a server that ends with the test; arguments as for `serving`."""
    with contextlib.ExitStack() as stack:

        def start(network: torch.nn.Module | None = None, **options: Any) -> Running:
            root = tmp_path / f"scratch{len(list(tmp_path.glob('scratch*')))}"
            return stack.enter_context(serving(root, network, **options))

        yield start


@pytest.fixture
def gate() -> Gate:
    """A network for `serve` that waits until the test opens it."""
    return Gate()
