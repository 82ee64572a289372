"""Random damage to container files is told, whatever it is; see `mutate_containers` for more of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COUNTS = {"tiff": 160, "hdf5": 60, "slices": 60, "zarr": 80}


@pytest.mark.skipif(sys.platform == "win32", reason="damaged files are read in forked processes")
@pytest.mark.parametrize("kind", COUNTS)
def test_nothing_but_our_errors(kind: str) -> None:
    if kind == "zarr":
        pytest.importorskip("ctseg_zarr")
    script = Path(__file__).with_name("mutate_containers.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), kind, str(COUNTS[kind]), "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"{kind}: {COUNTS[kind]} executions, 0 failures" in done.stdout
