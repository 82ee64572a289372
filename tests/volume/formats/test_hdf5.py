"""HDF5: which dataset, whose grid, and that the file is never opened for writing."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from ctseg.errors import FileProblem
from ctseg.specs import Label
from ctseg.volume.io import open_volume, read, write
from ctseg.volume.volume import Volume

ARRAY = np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(np.uint8)


def test_raw_is_the_default_and_any_other_has_a_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ARRAY
        file["group/other"] = np.stack([ARRAY, ARRAY + 1])
        file["numbers"] = np.arange(4)
    np.testing.assert_array_equal(read(tmp_path / "a.h5").array, ARRAY)
    other = open_volume(tmp_path / "a.h5", dataset="group/other")
    assert other.channels == 2
    np.testing.assert_array_equal(other.read((1, 2)), np.stack([ARRAY, ARRAY + 1])[:, 1:2])
    with pytest.raises(FileProblem, match="no dataset /row") as found:
        read(tmp_path / "a.h5", dataset="/row")
    assert "/group/other (2, 5, 6, 7)" in str(found.value.hint)
    with pytest.raises(FileProblem, match="shape"):
        read(tmp_path / "a.h5", dataset="numbers")


def test_the_only_volume_needs_no_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["predictions"] = ARRAY
    np.testing.assert_array_equal(read(tmp_path / "a.h5").array, ARRAY)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["more"] = ARRAY
    with pytest.raises(FileProblem, match="2 others"):
        read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w"):
        pass
    with pytest.raises(FileProblem, match="no others"):
        read(tmp_path / "b.h5")


def test_element_size(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ARRAY
        file["raw"].attrs["element_size_um"] = (4.0, 2.0, 1.0)
    geometry = read(tmp_path / "a.h5").geometry
    np.testing.assert_allclose(geometry.spacing_xyz, (0.001, 0.002, 0.004))
    assert geometry.unit == "um"


def test_a_spacing_that_is_given_is_known(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ARRAY
    with open_volume(tmp_path / "a.h5") as source:
        assert "voxel size is unknown" in source.metadata["spacing_unknown"]
        assert source.metadata["notes"] == [source.metadata["spacing_unknown"]]
    with open_volume(tmp_path / "a.h5", spacing="5um") as source:
        assert source.geometry.spacing_xyz == (0.005, 0.005, 0.005)
        assert not {"spacing_unknown", "notes"} & set(source.metadata)


def test_a_label_without_a_grid_lies_on_the_scan(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["label"] = np.zeros(oblique.array.shape, np.uint8)
        file["small"] = np.zeros((2, 2, 2), np.uint8)
        file["volume"] = np.zeros(oblique.array.shape, np.uint8)
        file["volume"].attrs["spacing_xyz"] = (9.0, 9.0, 9.0)
    label = read(tmp_path / "a.h5", dataset="/label").geometry
    assert label.difference(oblique.geometry) is None
    assert read(tmp_path / "a.h5", dataset="/small").spacing_xyz == (1, 1, 1)
    other = read(tmp_path / "a.h5", dataset="/label", geometry="/volume")
    assert other.spacing_xyz == (9, 9, 9)


def test_the_file_may_give_the_grid(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ARRAY
        file.attrs["spacing_xyz"] = (1.0, 2.0, 3.0)
        file.attrs["unit"] = "um"
    geometry = read(tmp_path / "a.h5").geometry
    assert geometry.spacing_xyz == (1, 2, 3)
    assert geometry.unit == "um"


def test_broken_attributes_name_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ARRAY
        file["raw"].attrs["spacing_xyz"] = (1.0, 2.0)
        file["text"] = np.full((2, 2, 2), b"a")
        file["zero"] = ARRAY
        file["zero"].attrs["spacing_xyz"] = (1.0, 2.0, 0.0)
    with pytest.raises(FileProblem, match="spacing_xyz has 2 numbers"):
        read(tmp_path / "a.h5")
    with pytest.raises(FileProblem, match="not real numbers"):
        read(tmp_path / "a.h5", dataset="text")
    with pytest.raises(FileProblem, match=r"a\.h5.*positive"):
        read(tmp_path / "a.h5", dataset="zero")


def test_input_is_opened_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Volume.from_array(ARRAY), tmp_path / "a.h5")
    modes = []
    opened = h5py.File

    def spy(name: Path, mode: str = "?") -> h5py.File:
        modes.append(mode)
        return opened(name, mode)

    before = (tmp_path / "a.h5").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("ctseg.volume.formats.hdf5.open.h5py.File", spy)
        open_volume(tmp_path / "a.h5", dataset="/raw").close()
    assert modes == ["r"]
    assert (tmp_path / "a.h5").read_bytes() == before


def test_labels_go_to_label_with_their_names(tmp_path: Path) -> None:
    write(
        Volume.from_array(ARRAY),
        tmp_path / "a.h5",
        labels=(Label("void", (0,), 0), Label("tow", (1,), 1)),
    )
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == ["label"]
        assert json.loads(file["label"].attrs["labels"]) == {"void": 0, "tow": 1}
        assert file["label"].chunks is not None
    np.testing.assert_array_equal(read(tmp_path / "a.h5").array, ARRAY)


@pytest.mark.parametrize("value", [h5py.Empty("f8"), "wide"])
def test_a_grid_without_numbers(tmp_path: Path, value: object) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ARRAY
        file["raw"].attrs["spacing_xyz"] = value
    with pytest.raises(FileProblem, match="spacing_xyz holds no numbers"):
        read(tmp_path / "a.h5")
