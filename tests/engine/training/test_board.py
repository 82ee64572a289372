"""The log of TensorBoard as TensorBoard's own reader sees it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import ctseg
from ctseg.engine.training import board
from ctseg.engine.training.board import Board, ShownCase
from ctseg.errors import BadInput
from ctseg.metrics.aligned import AlignedCase
from ctseg.specs import ImageRef, Label, Task
from ctseg.volume.geometry import Geometry

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
mesh = pytest.importorskip("tensorboard.plugins.mesh.metadata")
plugin_data = pytest.importorskip("tensorboard.plugins.mesh.plugin_data_pb2")
TASK = Task(
    "classes",
    (Label("background", (0,), 0), Label("ball", (1,), 1, (250, 10, 20)), Label("none", (2,), 2)),
)


def ball(radius: float, size: int = 40) -> np.ndarray:
    at = np.indices((size,) * 3) - size / 2 + 0.5
    return (np.linalg.norm(at, axis=0) <= radius).astype(np.uint8)


def case(tmp_path, name="one", size=40, spacing=(1.0, 1.0, 1.0)) -> AlignedCase:
    reference, predicted = ball(size / 4, size), ball(size / 5, size)
    scan = tmp_path / f"{name}.nii.gz"
    geometry = Geometry((size,) * 3, spacing)
    ctseg.write(ctseg.Volume((reference * 100).astype(np.int16), geometry), scan)
    return AlignedCase(name, TASK, predicted, reference, geometry, (ImageRef(scan),))


def read(folder, shown: ShownCase):
    written = Board.open(folder, 0)
    assert written is not None
    written.show(shown, 7)
    written.close()
    return accumulator.EventAccumulator(
        str(folder), size_guidance={"images": 0, "tensors": 0}
    ).Reload()


@pytest.mark.parametrize(("size", "spacing"), [(40, (1.0, 1.0, 2.0)), (200, (0.5, 0.5, 0.5))])
def test_slices_and_surfaces_of_the_first_case_are_there(tmp_path, size, spacing):
    pytest.importorskip("skimage")
    shown = ShownCase(surfaces=True)
    one = case(tmp_path, size=size, spacing=spacing)
    shown.add(one)
    shown.add(case(tmp_path, "two"))
    seen = read(tmp_path / "board", shown)
    assert seen.Tags()["images"] == ["one/scan", "one/reference", "one/prediction"]
    (event,) = seen.Images("one/reference")
    assert event.step == 7
    picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert picture.ndim == 3
    assert (picture[..., 0] > picture[..., 1] + 20).any()  # the red of the label
    for name, radius in (("reference", size / 4), ("prediction", size / 5)):
        parts = {}
        for kind in ("VERTEX", "FACE", "COLOR"):
            instance = mesh.get_instance_name(
                f"one/{name}", getattr(plugin_data.MeshPluginData, kind)
            )
            (event,) = seen.Tensors(instance)
            parts[kind] = np.array(
                event.tensor_proto.float_val or event.tensor_proto.int_val
                or np.frombuffer(event.tensor_proto.tensor_content, np.float32)
            ).reshape(-1, 3)  # fmt: skip
        faces = parts["FACE"].astype(int)
        a, b, c = (parts["VERTEX"][faces[:, i]] for i in range(3))
        volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
        exact = 4 / 3 * np.pi * radius**3 * np.prod(spacing)
        assert volume == pytest.approx(exact, rel=0.05)
        assert (parts["COLOR"].astype(int) == (250, 10, 20)).all()
        assert abs(parts["VERTEX"].max(0) + parts["VERTEX"].min(0)).max() < 1e-3


def test_without_scikit_image_there_are_slices_alone(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise BadInput("The package skimage is not installed.")

    monkeypatch.setattr(board, "surface_of", missing)
    shown = ShownCase(surfaces=True)
    shown.add(case(tmp_path))
    tags = read(tmp_path / "board", shown).Tags()
    assert len(tags["images"]) == 3
    assert tags["tensors"] == []
