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
def test_a_name_that_is_no_utf8_is_an_error_and_not_the_end(tmp_path: Path, suffix: str) -> None:
    """SimpleITK ends the process over such a name, so that this runs in one of its own."""
    plain = tmp_path / f"plain{suffix}"
    ctseg.write(ctseg.Volume.from_array(np.zeros((2, 3, 4), np.uint8)), plain)
    plain.rename(tmp_path / os.fsdecode(b"sch\xe4del" + suffix.encode()))
    code = (
        "import sys, ctseg\nfrom ctseg.errors import FileProblem\n"
        "try:\n    ctseg.read(sys.argv[1])\nexcept FileProblem as error:\n    print(error.hint)\n"
    )
    path = os.fsencode(tmp_path) + b"/sch\xe4del" + suffix.encode()
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Rename" in done.stdout
