"""What the package registers, that listing it costs nothing, and a study from scan to SEG on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from highdicom.seg import segread
from typer.testing import CliRunner

import ctseg
from ctseg import plugins
from ctseg.cli.app import app
from ctseg.specs import ImageRef, frozen
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import format_of, read_ref, writer_format


def test_everything_is_registered_with_its_provenance():
    entry = plugins.registry().get("format", "dicom_seg")
    assert entry.plugin.package == "ctseg-dicom"
    assert plugins.registry().provided_by(entry.plugin)["format"] == ["dicom_seg", "rtstruct"]
    assert entry.spec.needs_reference


def test_listing_imports_nothing_heavy(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    code = (
        "import sys; from pathlib import Path; from ctseg import plugins\n"
        f"print([f.recognise(Path({str(tmp_path / 'a.dcm')!r})) for f in plugins.formats()][:2])\n"
        "print([m for m in ('pydicom', 'highdicom', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[False, False]", "[]"]


def test_objects_are_told_from_series(tmp_path, series, label, make_seg):
    study = tmp_path / "study"
    make_seg(study / "seg" / "seg.dcm", series, label)
    for path, name in (
        (study / "seg" / "seg.dcm", "dicom_seg"),
        (study / "seg", "dicom_seg"),
        (study / "ct", "dicom"),
        (next((study / "ct").iterdir()), "dicom"),
    ):
        assert format_of(path).name == name, path
    make_seg(study / "seg" / "another.dcm", series, label)
    assert format_of(study / "seg").name == "dicom"  # two in one folder: which one is meant?
    assert writer_format(tmp_path / "a.seg.dcm").name == "dicom_seg"


def test_a_seg_is_the_label_of_its_series(tmp_path, series, label, make_seg):
    """As a reader of studies hands it on: a path and options."""
    path = tmp_path / "seg.dcm"
    make_seg(path, series, label)
    options = frozen({"series": str(tmp_path / "study" / "ct"), "segments": "GTV*"})
    read = read_ref(ImageRef(path, options))
    scan = read_ref(ImageRef(tmp_path / "study" / "ct"))
    assert read.geometry.agrees(scan.geometry)
    np.testing.assert_array_equal(read.array[0], label == 3)


def test_predict_writes_a_seg_of_the_series(tmp_path, make_series):
    """The zoo's hippocampus model has nothing to find in a CT; what counts is where its answer goes."""
    zoo = Path(__file__).resolve().parents[3] / "zoo"
    model = zoo / "unet3d.hippocampus_v1" / "weights.safetensors"
    geometry = Geometry((12, 24, 30), (1.0, 1.0, 1.5), (5.0, 6.0, 7.0))
    images = make_series(tmp_path / "ct", geometry)
    out = tmp_path / "out.seg.dcm"
    for _ in range(2):  # a result is replaced
        done = CliRunner().invoke(
            app, ["predict", str(tmp_path / "ct"), "-m", str(model), "-o", str(out)]
        )
        assert done.exit_code == 0, done.output
    seg = ctseg.read(out)
    assert seg.geometry.agrees(geometry)
    assert seg.metadata["labels"] == {"anterior": 1, "posterior": 2}
    assert seg.metadata["drawn_on"] == [images[0].SeriesInstanceUID]
    segment = segread(out).get_segment_description(1)
    assert segment.algorithm_identification.name == "unet3d.hippocampus_v1"
