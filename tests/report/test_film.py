"""Films: frames with labels where they lie, read back by ffmpeg and Pillow with their size and number."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctseg.errors import BadInput
from ctseg.report import extras
from ctseg.report.film import frames, write_film
from ctseg.report.planes import Look, Plane
from ctseg.specs import Label, Task
from ctseg.volume.volume import Volume

GREEN = (0, 255, 0)
TASK = Task("classes", (Label("background", (0,), 0), Label("organ", (1,), 1, GREEN)))


def scan() -> tuple[Volume, np.ndarray]:
    array = np.full((8, 30, 20), 40, np.int16)
    array[0] = -1000
    label = np.zeros(array.shape, np.uint8)
    label[3:6, 5:15, 2:8] = 1
    return Volume.from_array(array, spacing_xyz=(1.0, 1.0, 3.0)), label


def shown(plane: Plane, fill: float = 0.5) -> list[np.ndarray]:
    volume, label = scan()
    depth = {"axial": 8, "coronal": 30, "sagittal": 20}[plane]
    return list(frames(volume, label, TASK, Look((-160, 240), fill=fill), plane, range(depth)))


def green(frame: np.ndarray) -> np.ndarray:
    return (frame[..., 1].astype(int) - frame[..., 0]) > 60


@pytest.mark.parametrize(
    ("plane", "size"), [("axial", (512, 342)), ("coronal", (512, 426)), ("sagittal", (410, 512))]
)
def test_frames_have_the_aspect_ratio_of_the_scan(plane: Plane, size: tuple[int, int]) -> None:
    assert {frame.shape for frame in shown(plane)} == {(*size, 3)}


def test_labels_are_drawn_where_they_lie() -> None:
    pictures = shown("axial")
    assert [bool(green(one).any()) for one in pictures] == [False] * 3 + [True] * 3 + [False] * 2
    rows, columns = np.nonzero(green(pictures[4]))
    scale = 512 / 30
    found = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
    np.testing.assert_allclose(found, np.array([5, 15, 2, 8]) * scale, atol=2)
    contour = green(shown("axial", fill=0.0)[4])
    assert contour.any() and contour.sum() < 0.2 * green(pictures[4]).sum()
    assert not contour[rows.min() + 20, columns.min() + 20]
    np.testing.assert_array_equal(pictures[0], 0)  # air is black
    assert abs(int(pictures[2][100, 300, 0]) - 127) <= 1  # 40 HU lie in the middle of the window


def test_a_gif_holds_every_frame(tmp_path: Path) -> None:
    write_film(shown("axial"), tmp_path / "film.gif", fps=10)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 8 or film.n_frames == 4  # equal frames may be one that lasts longer
        durations = []
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
        assert sum(durations) == 800 and film.size == (342, 512)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_video_opens_in_ffmpeg(tmp_path: Path, suffix: str) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / f"film{suffix}"
    write_film(shown("axial"), path)
    assert ffmpeg.count_frames_and_secs(str(path))[0] == 8
    decode = ["-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-v", "error", "-"]
    raw = subprocess.check_output([ffmpeg.get_ffmpeg_exe(), *decode])
    read = np.frombuffer(raw, np.uint8).reshape(8, 512, 342, 3)
    assert np.abs(read[4].astype(int) - shown("axial")[4]).mean() < 8
    probe = shutil.which("ffprobe")
    if probe is not None:
        command = [probe, "-v", "error", "-print_format", "json", "-show_streams", str(path)]
        stream = json.loads(subprocess.check_output(command))["streams"][0]
        assert (stream["width"], stream["height"]) == (342, 512)
        assert stream["codec_name"] == {".mp4": "h264", ".webm": "vp9"}[suffix]
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(BadInput, match="imageio_ffmpeg is not installed") as caught:
        write_film(shown("axial"), tmp_path / "film.mp4")
    assert caught.value.hint == "Install it: pip install 'ctseg[film]'"
    assert not list(tmp_path.iterdir())
