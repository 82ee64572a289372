"""NiiVue in a notebook is given the scan and its label maps, where they lie."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

import ctseg
from ctseg.errors import BadInput, GeometryMismatch
from ctseg.report import extras, notebook
from ctseg.volume.volume import Volume


def scan(shape: tuple[int, int, int] = (6, 10, 12)) -> tuple[Volume, Volume]:
    hu = np.random.default_rng(0).normal(0, 300, shape).astype(np.float32) - 400
    labels = np.zeros(shape, np.uint8)
    labels[2:5, 3:8, 3:9] = 2
    geometry = {"spacing_xyz": (0.7, 0.8, 3.0), "origin_xyz": (-10.0, 20.0, 5.0)}
    return Volume.from_array(hu, **geometry), Volume.from_array(labels, **geometry)


def read(data: bytes) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(data)


def test_the_widget_holds_the_scan_and_the_labels() -> None:
    pytest.importorskip("ipyniivue")
    volume, mask = scan()
    widget = ctseg.show(volume, mask, window=(-100.0, 200.0))
    image, label = widget.volumes
    np.testing.assert_array_equal(np.asarray(read(image.data).dataobj).T, volume.array)
    np.testing.assert_array_equal(np.asarray(read(label.data).dataobj).T, mask.array)
    np.testing.assert_allclose(
        read(label.data).affine, np.diag([-1, -1, 1, 1]) @ volume.geometry.affine, rtol=1e-5
    )
    assert (image.cal_min, image.cal_max) == (-100, 200) and label.opacity == 0.5


def test_large_scans_are_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipyniivue")
    monkeypatch.setattr(notebook, "DISPLAY_VOXELS", 100)
    volume, mask = scan((7, 10, 12))
    image, label = (read(one.data) for one in ctseg.show(volume, mask).volumes)
    assert image.shape == label.shape and np.prod(image.shape) <= 100
    assert set(np.unique(np.asarray(label.dataobj))) == {0, 2}
    middle = np.argwhere(np.asarray(label.dataobj) == 2).mean(0)
    where = image.affine[:3, :3] @ middle + image.affine[:3, 3]
    truth = volume.geometry.position(np.argwhere(mask.array == 2).mean(0)[::-1]) * [-1, -1, 1]
    np.testing.assert_allclose(where, truth, atol=2.5)


def test_a_missing_package_and_another_grid_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, mask = scan()
    other = Volume.from_array(mask.array)
    with pytest.raises(GeometryMismatch):
        pytest.importorskip("ipyniivue") and ctseg.show(volume, other)

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(BadInput, match="ipyniivue is not installed") as caught:
        notebook.show(volume, mask)
    assert caught.value.hint == "Install it: pip install 'ctseg[view]'"
