"""Seconds until `ctseg --help` is printed. The bar is 0.3."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

RUNS = 9


def measure() -> dict[str, Any]:
    """Median, smallest and largest of some runs, after one that warms the disk."""
    times = [_once() for _ in range(RUNS + 1)][1:]
    return {
        "what": "ctseg --help, seconds",
        "median": round(statistics.median(times), 3),
        "smallest": round(min(times), 3),
        "largest": round(max(times), 3),
        "runs": RUNS,
    }


def _once() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ctseg", "--help"], check=True, capture_output=True)
    return time.perf_counter() - begun
