"""Films through the slices of a scan with a label map overlaid: GIF, MP4, WebM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctseg.errors import RunFailed
from ctseg.files import whole_file
from ctseg.report.extras import optional
from ctseg.report.planes import (
    Look,
    Plane,
    Slice,
    Window,
    canonical,
    canonical_spacing_zyx,
    cut,
    window_of,
)
from ctseg.specs import Task
from ctseg.task import PALETTE, colour_of, masks
from ctseg.volume.preview.paint import paint_grey, paint_labels
from ctseg.volume.volume import Volume

FILMS = (".gif", ".mp4", ".webm")
EXTRA = "film"
_CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
_PIXELS = 512
"""Length of the longer side of a frame."""


def frames(
    volume: Volume,
    label_zyx: NDArray[Any] | None,
    task: Task,
    look: Look,
    plane: Plane,
    indices: Sequence[int],
) -> Iterator[NDArray[np.uint8]]:
    """The slices as pictures [rows, columns, 3] of one even size, with the scan's aspect ratio.

    Args:
        volume: the scan, [Z, Y, X].
        label_zyx: label values on the scan's grid.
        indices: slices of the canonical array: from foot, front, or the patient's right.
    """
    image = canonical(volume.array, volume.geometry)
    label = None if label_zyx is None else canonical(label_zyx, volume.geometry)
    spacing = canonical_spacing_zyx(volume.geometry)
    window = look.window or window_of(image)
    for index in indices:
        over = None if label is None else cut(label, spacing, plane, index)
        yield _frame(cut(image, spacing, plane, index), over, task, look.fill, window)


def write_film(pictures: Iterable[NDArray[np.uint8]], path: Path, fps: float = 12.0) -> None:
    """Write pictures of one size as a film; its suffix chooses the format.

    Raises:
        BadInput: imageio-ffmpeg, which MP4 and WebM need, is not installed.
        FileProblem: the film cannot be written.
        RunFailed: ffmpeg fails.
    """
    if path.suffix.lower() == ".gif":
        stills = [Image.fromarray(one).quantize(128, dither=Image.Dither.NONE) for one in pictures]
        with whole_file(path) as temporary:
            milliseconds = max(20, round(1000 / fps))
            stills[0].save(
                temporary, "GIF", save_all=True, append_images=stills[1:], duration=milliseconds, loop=0
            )  # fmt: skip
        return
    ffmpeg = optional("imageio_ffmpeg", EXTRA)
    suffix = path.suffix.lower()
    with whole_file(path) as temporary:
        sink = None
        try:
            for one in pictures:
                if sink is None:
                    sink = ffmpeg.write_frames(
                        str(temporary), one.shape[1::-1], fps=fps, codec=_CODECS[suffix],
                        macro_block_size=2, output_params=["-f", suffix[1:], "-loglevel", "error"],
                    )  # fmt: skip
                    sink.send(None)
                sink.send(np.ascontiguousarray(one))
        except OSError as error:
            raise RunFailed(f"ffmpeg could not write {path}: {error}.") from error
        finally:
            if sink is not None:
                sink.close()


def _frame(
    image: Slice, label: Slice | None, task: Task, fill: float, window: Window
) -> NDArray[np.uint8]:
    grey = paint_grey(image, window, _PIXELS)
    if label is None:
        return np.repeat(grey[..., None], 3, axis=2)
    numbers = np.zeros(label.pixels.shape, np.int32)
    for number, mask in enumerate(masks(task, label.pixels).values(), start=1):
        numbers[mask] = number
    colours = [colour_of(task, index) for index in range(len(task.foreground))]
    return paint_labels(grey, numbers, colours or PALETTE, fill)
