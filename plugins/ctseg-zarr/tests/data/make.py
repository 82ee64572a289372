"""How the stores in this folder were made: with ome-zarr-py 0.18, which ctseg does not depend on.

pip install ome-zarr==0.18.0; python make.py
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import zarr
from ome_zarr.format import FormatV04, FormatV05
from ome_zarr.writer import write_image, write_labels

HERE = Path(__file__).parent
generator = np.random.default_rng(0)
scan = generator.integers(0, 1000, (2, 6, 20, 24)).astype(np.uint16)
cells = (scan[0] > 500).astype(np.uint8)
for name, form in (("v04", FormatV04()), ("v05", FormatV05())):
    with tempfile.TemporaryDirectory() as folder:
        root = zarr.open_group(folder, mode="w", zarr_format=form.zarr_format)
        space = dict.fromkeys("zyx", "micrometer")
        scale = {"c": 1.0, "z": 2.0, "y": 0.5, "x": 0.25}
        write_image(
            scan, root, axes="czyx", fmt=form, scale=scale, axes_units=space, scale_factors=[2, 4]
        )
        write_labels(
            cells, root, name="cells", axes="zyx", fmt=form, scale_factors=[2],
            label_metadata={
                "colors": [{"label-value": 1, "rgba": [255, 0, 0, 255]}],
                "properties": [{"label-value": 1, "name": "cell"}],
            },
        )  # fmt: skip
        target = HERE / f"ome_zarr_py_{name}.zarr.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder).as_posix())
np.savez_compressed(HERE / "scan.npz", scan=scan, cells=cells)
