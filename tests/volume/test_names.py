"""Files whose names no library foresaw."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ctseg


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes there")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_name_that_is_no_utf8_is_a_name(tmp_path: Path, suffix: str) -> None:
    """It runs in a process of its own, since libraries in C++ have ended the process over such a name."""
    plain = tmp_path / f"plain{suffix}"
    ctseg.write(ctseg.Volume.from_array(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)), plain)
    plain.rename(tmp_path / os.fsdecode(b"sch\xe4del" + suffix.encode()))
    code = "import sys, ctseg\nprint(ctseg.read(sys.argv[1]).array.sum())\n"
    path = os.fsencode(tmp_path) + b"/sch\xe4del" + suffix.encode()
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [b"276"]
