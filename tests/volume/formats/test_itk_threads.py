"""SimpleITK is not for several threads at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import SimpleITK as sitk

from ctseg.volume.formats import itk


def test_headers_are_read_by_one_thread_at_a_time(monkeypatch):
    inside, most = 0, 0
    counting = threading.Lock()

    class Reader:
        def SetFileName(self, name: str) -> None: ...  # noqa: N802

        def ReadImageInformation(self) -> None:  # noqa: N802
            nonlocal inside, most
            with counting:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with counting:
                inside -= 1

    monkeypatch.setattr(sitk, "ImageFileReader", Reader)
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(itk.read_header, [Path("scan.nii")] * 8))
    assert most == 1
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown
