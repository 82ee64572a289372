"""Memory does not grow with the length of the scan."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import scipy.ndimage, scipy.sparse.csgraph  # otherwise imported at first use, which takes memory
from ctseg.engine.postprocess import PostprocessRule, find_instances, postprocess
from ctseg.volume.geometry import Geometry

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

depth, folder = int(sys.argv[1]), Path(sys.argv[2])
shape = (depth, 256, 256)
labels = np.memmap(folder / f"{depth}.raw", np.uint8, "w+", shape=shape)
plane = np.zeros(shape[1:], np.uint8)
plane[20:200, 20:200] = 1
plane[60:90, 60:90] = 0  # a tunnel
plane[220:240, 30:60] = 2
for z in range(depth):
    plane[62, 220:250:3] = 2 * (z % 4 == 0)
    labels[z] = plane
labels[:2] = labels[-2:] = 1  # lids, so that the tunnel is a hole
del labels
labels = np.memmap(folder / f"{depth}.raw", np.uint8, "r+", shape=shape)
rules = [PostprocessRule(label="*", keep_largest=1, fill_holes="3d"),
         PostprocessRule(label="b", fill_holes="slices")]
grid, small = Geometry(shape), 2 * 2**20
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = peak()
report = postprocess(labels, {"a": 1, "b": 2}, rules, geometry=grid, slab_bytes=small)
assert report["a"]["voxels_filled"] == 900 * (depth - 4), report
assert report["b"]["parts_removed"] == 10 * len(range(0, depth - 2, 4)) - 10, report
numbers = np.memmap(folder / f"{depth}.out", np.uint16, "w+", shape=shape)
find_instances(labels, slab_bytes=small).write(numbers)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_that_of_a_slab(tmp_path):
    """Files of 6 and 24 MiB (18 and 72 with the numbers), worked on in slabs of 2 MiB."""
    peaks = []
    for depth in (96, 384):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(depth), str(tmp_path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < 18  # MiB; far less than the files
    assert peaks[1] < peaks[0] + 4
