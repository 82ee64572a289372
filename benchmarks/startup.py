"""What a process pays before it has done anything: seconds until `ctseg --help` is printed, and until the first mask.

The bar of `ctseg --help` is 0.3 s. The first mask is that of a scan of 35 x 50 x 36 voxels of noise by
`unet3d.hippocampus_v1`, with `ctseg.load` and `Segmenter.predict`. All start in turns, each in a new process, after a
first turn that warms the disk and writes the bytecode. Beside the seconds on the clock stand those of the processor,
with one thread, which other processes change less.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

RUNS = 5
MODEL = "unet3d.hippocampus_v1"
LOAD = f"import ctseg; s = ctseg.load('{MODEL}', device='cpu')"
SCAN = (
    "import numpy as np; a = np.random.default_rng(0).normal(0, 100, (35, 50, 36)).astype('float32'); "
    "v = ctseg.Volume.from_array(a, spacing_xyz=(1, 1, 1))"
)
CODE = {
    "`import ctseg`": "import ctseg",
    "`import torch`": "import torch",
    "`ctseg.load`": LOAD,
    "`ctseg.load`, first mask": f"{LOAD}; {SCAN}; s.predict(v)",
    "nnU-Net, import of its predictor": "from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor",
    "MONAI, import of its inferers": "from monai.inferers import SlidingWindowInferer",
}
"""Python that each process runs, by what it stands for."""


def measure() -> dict[str, Any]:
    """Median, smallest and largest of some runs."""
    commands = {"`ctseg --help`": ["-m", "ctseg", "--help"]}
    commands |= {name: ["-c", code] for name, code in CODE.items()}
    runs = [{name: _once(command) for name, command in commands.items()} for _ in range(RUNS + 1)]
    table = {}
    for name in commands:
        clock, processor = zip(*(run[name] for run in runs[1:]), strict=True)
        table[name] = {
            "median": round(statistics.median(clock), 3),
            "smallest": round(min(clock), 3),
            "largest": round(max(clock), 3),
            "processor": round(statistics.median(processor), 3),
        }
    return {"what": "new processes, seconds", "runs": RUNS, "seconds": table}


def _once(command: list[str]) -> tuple[float, float]:
    """Seconds on the clock, and of the processor."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["OMP_NUM_THREADS"] = "1"
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, spent
