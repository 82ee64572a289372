"""The header of a DICOM file, up to its voxels, read with pydicom; this module imports no NumPy itself."""

from __future__ import annotations

import io
import os
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from ctseg.errors import FileProblem
from ctseg.volume.formats.dicom.first_bytes import DICOM_HEAD, first_elements, is_dicom_start

IMPLICIT, EXPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2"))
DEFLATED = "1.2.840.10008.1.2.1.99"
PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
"""Pixel Data, Float Pixel Data and Double Float Pixel Data."""
_UNDEFINED = 0xFFFFFFFF
MODALITY_LUT = 0x00283000
_SEQUENCES = frozenset({
    0x52009229, 0x52009230, 0x00209113, 0x00209116, 0x00289110, 0x00289145, MODALITY_LUT,
})  # fmt: skip
"""Sequences that contain positions of frames and the meaning of their values."""
_KEPT = _SEQUENCES | frozenset({
    0x00080008, 0x00080018, 0x00080033, 0x00080060, 0x0008103E,  # what it is
    0x00100020, 0x00180050, 0x00180081, 0x00180088, 0x00181060, 0x00181210,
    0x0020000D, 0x0020000E, 0x00200012, 0x00200032, 0x00200037, 0x00200052, 0x00200100,
    0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280030,  # pixels
    0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00281052, 0x00281053,
})  # fmt: skip
"""The elements that are read: a study has thousands of files, and private blocks and pictures may be large."""
_MOST_INFLATED = 2**29
_WARNINGS = threading.Lock()
"""Python's warning filters are shared by all threads, and scans are read in several."""
if hasattr(os, "register_at_fork"):  # a forked process must not inherit the lock in a locked state
    os.register_at_fork(
        before=_WARNINGS.acquire,
        after_in_parent=_WARNINGS.release,
        after_in_child=_WARNINGS.release,
    )


@dataclass(frozen=True)
class Element:
    """One value: its parts as text, none if it is empty or damaged, or the items of a sequence."""

    words: tuple[str, ...]
    items: tuple[Mapping[int, Element], ...] = ()


@dataclass(frozen=True)
class Header:
    """The elements of a file before its voxels.

    Attributes:
        path: the file.
        syntax: UID of the transfer syntax.
        elements: by tag, e.g. 0x00280010 for Rows; only those that ctseg uses.
        order: byte order of the voxels, `<` or `>`.
        pixel_tag: tag of the voxels, 0 without any.
        pixel_start: first byte of the voxels in the file, 0 if it is deflated.
        pixel_bytes: number of bytes of the voxels, None for encapsulated ones.
        file_bytes: size of the file, or of the voxels if it is deflated.
    """

    path: Path
    syntax: str
    elements: Mapping[int, Element] = field(repr=False)
    order: str
    pixel_tag: int
    pixel_start: int
    pixel_bytes: int | None
    file_bytes: int

    def text(self, tag: int) -> str:
        """A value as text without padding; several values are separated by backslashes, none gives empty text.

        Raises:
            KeyError: the tag is not among those that are read.
        """
        return "\\".join(_words(self.elements, tag))

    def numbers(self, tag: int) -> list[float]:
        """A value as numbers; empty without any."""
        return numbers(self.elements, tag)

    def integer(self, tag: int, default: int = 0) -> int:
        values = self.numbers(tag)
        return int(values[0]) if values else default


def numbers(elements: Mapping[int, Element], tag: int) -> list[float]:
    """A value of a header, or of an item of a sequence, as numbers; empty without any."""
    try:
        return [float(word) for word in _words(elements, tag)]
    except ValueError:
        return []


def _words(elements: Mapping[int, Element], tag: int) -> tuple[str, ...]:
    if tag not in _KEPT:
        raise KeyError(f"({tag:08x}) is not among the elements that are read")
    return elements[tag].words if tag in elements else ()


class BoundedFile(io.BufferedReader):
    """A file whose reads are limited to its size, so that a damaged length cannot claim gigabytes of memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(self.size - self.tell(), 0))
        return super().read(size)


def read_dicom_header(path: Path) -> Header:
    """Read a file up to its voxels.

    Raises:
        FileProblem: not a DICOM file.
        ValueError: the header is damaged.
        EOFError: the file ends within the header, or before the last voxel.
    """
    tag, start, length, end = 0, 0, 0, None

    def at_voxels(found: int, _vr: str | None, count: int) -> bool:
        nonlocal tag, start, length, end
        tag, start, length = found, file.tell(), count
        end = start if count == _UNDEFINED else start + count
        return found >= min(PIXELS)

    with BoundedFile(path) as file:
        _check_start(file, path)
        _check_deflated(file)
        with quiet_pydicom():
            data = read_partial(file, at_voxels, force=True, specific_tags=list(_KEPT))
            elements = _elements(data)
            named = data.file_meta.get(0x00020010)
        size = file.size
    implicit, little = data.original_encoding
    guess = IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN
    syntax = "".join(_element(named).words if named else ()) or guess
    if tag not in PIXELS:
        if end is None or (end > size and syntax != DEFLATED and tag < min(PIXELS)):
            raise EOFError(
                f"it ends within the element ({tag:08x})" if tag else "it ends within the header"
            )
        tag, length = 0, 0
    elif syntax == DEFLATED:
        start, size = 0, len(inflated_voxels(path, tag))
    if tag and length != _UNDEFINED and start + length > size:
        raise EOFError(f"it has {max(size - start, 0)} of {length} bytes of voxels")
    counted = None if length == _UNDEFINED else length
    return Header(path, syntax, elements, "<" if little else ">", tag, start, counted, size)


def inflated_voxels(path: Path, tag: int) -> bytes:
    """The voxels of a deflated file, which is inflated as a whole.

    Raises:
        ValueError: the file is damaged.
    """
    with BoundedFile(path) as file, quiet_pydicom():
        return bytes(dcmread(file, specific_tags=[tag])[tag].value)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings, as ctseg checks values itself; turn damage into errors that `reading` expects."""
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # pydicom drops such a header and only warns
            warnings.filterwarnings("error", message="End of file reached")
            yield
    except EOFError:
        raise
    except UserWarning as error:
        raise EOFError("it ends within the header") from error
    except OSError as error:
        if error.errno is not None:  # an error of the disk, not of pydicom
            raise
        raise EOFError("it ends within a sequence, or a sequence is damaged") from error
    except Exception as error:  # pydicom raises errors of any kind for damaged values
        raise ValueError(str(error) or type(error).__name__) from error


def _check_start(file: BoundedFile, path: Path) -> None:
    first = file.read(DICOM_HEAD)
    file.seek(0)
    if not is_dicom_start(first):
        raise FileProblem(
            f"{path} is not a DICOM file.",
            hint="Check what it is (file PATH) and give it the suffix of its format.",
        )


def _check_deflated(file: BoundedFile) -> None:
    """Refuse a deflated file that unpacks to more than any slice has, before pydicom unpacks it whole."""
    head = file.read(DICOM_HEAD)
    file.seek(0)
    syntax = dict(first_elements(head)).get(0x00020010, b"").rstrip(b"\0 ").decode("latin-1")
    if syntax != DEFLATED:
        return
    length = dict(first_elements(head)).get(0x00020000, b"")
    file.seek(144 + int.from_bytes(length, "little"))
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not inflater.eof and (block := file.read(2**16) or inflater.unconsumed_tail):
        while block and not inflater.eof:
            size += len(inflater.decompress(block, 2**20))
            block = inflater.unconsumed_tail
            if size > _MOST_INFLATED:
                raise ValueError(f"it unpacks to more than {_MOST_INFLATED >> 20} MiB")
    file.seek(0)


def _elements(data: Dataset) -> dict[int, Element]:
    """The required elements of a header or item, without damaged numbers that are optional."""
    out = {}
    for tag in _KEPT.intersection(data.keys()):
        if tag in _SEQUENCES:
            items = data[tag].value
            if not isinstance(items, Sequence):
                raise ValueError(f"({tag:08x}) is no sequence")
            out[int(tag)] = Element((), tuple(map(_elements, items)))
            continue
        try:
            out[int(tag)] = _element(data[tag])
        except (ValueError, TypeError, OverflowError) as error:
            if tag >> 16 == 0x0028:  # the meaning of voxels: no default may replace it
                raise ValueError(f"the element ({tag:08x}) is damaged") from error
    return out


def _element(element: DataElement) -> Element:
    value = element.value
    if value is None or isinstance(value, bytes | Sequence):
        return Element(())
    many = value if isinstance(value, MultiValue | list) else [value]
    words = tuple(str(one).rstrip(" \0").lstrip(" ") for one in many)
    if not any(words):
        return Element(())
    if element.VR in ("DS", "IS"):  # pydicom may leave values that are not numbers
        list(map(float, words))
    return Element(words)
