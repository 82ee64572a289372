"""PET/CT through the commands: prepared, trained on and predicted with PET on its own grid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app


def run(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.mark.slow
@pytest.mark.real_data
def test_pet_beside_ct(real_data: Path, tmp_path: Path) -> None:
    full, data = real_data / "sts_ct", tmp_path / "data"
    names = [f"sts_{number:03}.nii.gz" for number in range(1, 5)]
    for kind in ("imagesTr", "petTr", "labelsTr"):
        (data / kind).mkdir(parents=True)
        for name in names:
            (data / kind / name).symlink_to(full / kind / name)
    document = {
        "name": "PET/CT",
        "modality": {"0": "CT", "1": "PET"},
        "labels": {"0": "background", "1": "tumour"},
        "training": [
            {"image": [f"imagesTr/{name}", f"petTr/{name}"], "label": f"labelsTr/{name}"}
            for name in names
        ],
    }
    (data / "dataset.json").write_text(json.dumps(document))
    inspected = run("data", "inspect", data)
    assert "has a grid of its own" in inspected
    small = ["--set", "model.options.features=[4, 8]", "--patch", "16,48,48", "--batch-size", "2"]
    said = run("train", data, "-o", tmp_path / "run", "--steps", "3", *small)
    assert "4 images have grids of their own" in said
    ct, pet = (data / kind / names[0] for kind in ("imagesTr", "petTr"))
    out = tmp_path / "one.nii.gz"
    exact = ["-m", tmp_path / "run", "--precision", "fp32"]
    told = run("predict", f"{ct},{pet}", *exact, "-o", out)
    assert "is interpolated onto that of" in told
    scan = sitk.ReadImage(str(ct))
    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(scan)
    resample.SetUseNearestNeighborExtrapolator(True)
    on_ct = resample.Execute(sitk.ReadImage(str(pet)))
    sitk.WriteImage(on_ct, str(tmp_path / "on_ct.nii.gz"))
    two = tmp_path / "two.nii.gz"
    run("predict", f"{ct},{tmp_path / 'on_ct.nii.gz'}", *exact, "-o", two)
    one, other = ctseg.read(out), ctseg.read(two)
    assert one.geometry.agrees(ctseg.read(ct).geometry)
    assert (one.array == other.array).mean() > 0.999
    moved = ctseg.read(pet)
    far = tuple(value + 900 for value in moved.geometry.origin_xyz)
    shifted = ctseg.Volume.from_array(
        np.asarray(moved.array), spacing_xyz=moved.geometry.spacing_xyz, origin_xyz=far
    )
    ctseg.write(shifted, tmp_path / "far.nii.gz")
    words = ["predict", f"{ct},{tmp_path / 'far.nii.gz'}", "-m", tmp_path / "run", "-o", two]
    refused = CliRunner().invoke(app, list(map(str, words)))
    assert refused.exit_code and "cannot be channels of one case" in " ".join(
        refused.output.split()
    )
