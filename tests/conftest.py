"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CTSEG_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder} (set CTSEG_TEST_DATA)")
    return folder
