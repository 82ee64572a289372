"""A label stored otherwise than its image is refused with a command that mends it, word for word."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.data.load import load_image, load_label
from ctseg.errors import GeometryMismatch
from ctseg.specs import Case, ImageRef
from ctseg.task import classes_task


@pytest.mark.parametrize("kind", ["permuted", "cropped"])
def test_the_command_of_the_hint_mends_it(tmp_path: Path, monkeypatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    affine, label = np.diag([1.0, 1.5, 2.0, 1.0]), np.zeros((12, 10, 8), np.uint8)
    label[3:9, 2:6, 4:7] = 1
    nib.save(nib.Nifti1Image(label.astype(np.int16) * 40, affine), "image.nii.gz")
    stored = nib.Nifti1Image(label, affine)
    if kind == "permuted":
        ends = (orientations.axcodes2ornt(codes) for codes in ("RAS", "SPL"))
        stored = stored.as_reoriented(orientations.ornt_transform(*ends))
    else:
        stored = stored.slicer[1:, 2:, :7]
    nib.save(stored, "label.nii.gz")
    case = Case("a", (ImageRef(Path("image.nii.gz")),), ImageRef(Path("label.nii.gz")))
    task, image = classes_task({"organ": 1}), load_image(case)
    with pytest.raises(GeometryMismatch) as found:
        load_label(case, task, image)
    command = re.search(r"ctseg (data convert .* --like \S+)", str(found.value))
    assert command is not None
    words = shlex.split(command[1])
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    mended = nib.load(words[3])
    np.testing.assert_array_equal(np.asarray(mended.dataobj), label)
    np.testing.assert_allclose(mended.affine, affine)
