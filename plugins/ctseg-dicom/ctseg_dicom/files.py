"""Reading DICOM objects: translation of errors, and the options that SEG and RTSTRUCT share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pydicom.config
from pydicom.uid import UID

from ctseg.errors import BadInput, CtsegError, FileProblem
from ctseg.volume.formats.dicom.header import BIG_ENDIAN, EXPLICIT, IMPLICIT, BoundedFile
from ctseg.volume.formats.source import AGAIN, check_file, reading
from ctseg_dicom.sniff import object_in


@contextmanager
def dicom(path: Path) -> Iterator[None]:
    """Turn pydicom's errors into a `FileProblem`, and accept values that break DICOM's rules.

    Scanners and planning systems write values that violate their type (too long, for example). ctseg checks the values
    it uses, so pydicom's warnings about the rest are off.
    """
    settings = pydicom.config.settings
    before = settings.reading_validation_mode, settings.writing_validation_mode
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        with reading(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (CtsegError, MemoryError):
        raise
    except Exception as error:  # pydicom raises errors of any kind for damaged values
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, AttributeError) and error.name:
            message = f"no {error.name}"
        raise FileProblem(
            f"{path} is damaged, or lacks what its kind of object must have: {message}.", hint=AGAIN
        ) from error
    finally:
        settings.reading_validation_mode, settings.writing_validation_mode = before


def load(path: Path, classes: frozenset[str], what: str, **options: Any) -> pydicom.Dataset:
    """Read a DICOM object of one of some classes.

    Args:
        path: the file, or the folder that holds only this file.
        classes: UIDs of the accepted SOP classes.
        what: name of the classes, for the message.
        options: options of `pydicom.dcmread`.

    Raises:
        FileProblem: missing, damaged, or another kind of object.
    """
    file = object_in(path, classes)
    if file is None:
        check_file(path)
        raise FileProblem(
            f"{path} is not a {what}.",
            hint="Open image series and other objects without the option format.",
        )
    with dicom(path):
        return read_dataset(file, **options)


def read_dataset(path: Path, **options: Any) -> pydicom.FileDataset:
    """Read a DICOM file, with or without preamble; reads are limited to the file's size, even if lengths are damaged.

    Args:
        path: the file.
        options: options of `pydicom.dcmread`.
    """
    with BoundedFile(path) as file:
        data = pydicom.dcmread(file, force=True, **options)
    if not data.file_meta.get("TransferSyntaxUID"):
        implicit, little = data.original_encoding
        data.file_meta.TransferSyntaxUID = UID(
            IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN
        )
    return data


def names_of(option: str | int | Sequence[str | int] | None) -> list[str] | None:
    """The entries of an option that lists names, e.g. `Liver,GTV*`; None if the option is absent."""
    if option is None:
        return None
    parts = option.split(",") if isinstance(option, str) else [str(part) for part in option] \
        if isinstance(option, Sequence) else [str(option)]  # fmt: skip
    names = [part.strip() for part in parts if part.strip()]
    if not names:
        raise BadInput("The list of names is empty.", hint="Leave the option out to take all.")
    return names


def check_word(name: str, value: str, known: Sequence[str], path: Path) -> None:
    """Refuse a value that is not one of the known words."""
    if value not in known:
        raise BadInput(
            f"The option {name} is '{value}' (for {path}).", hint=f"Use one of: {', '.join(known)}"
        )
