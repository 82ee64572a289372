"""Conversion of label names and colours to and from DICOM: coded concepts and CIELab values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

MANUFACTURER = "ctseg"
"""Manufacturer of the objects that ctseg writes."""
VALUE_TEXT = re.compile(r"^ctseg label value (\d+)$")
"""Label value in a segment's description: segments are numbered 1, 2, ..., but label values are arbitrary."""
_SIDES = re.compile(r"(?<![a-z])(left|right|upper|middle|lower)(?![a-z])")
_TUMOUR = re.compile(r"(?<![a-z])(tumou?r|gtv|neoplasm|metastas[ei]s|carcinoma|sarcoma)")
_LESION = re.compile(r"(?<![a-z])(lesion|cyst|nodule|effusion|edema|oedema|haemorrhage|hemorrhage)")
_ANATOMY = codes.SCT.AnatomicalStructure
_ABNORMAL = codes.SCT.MorphologicallyAbnormalStructure
_NEOPLASM = codes.SCT.Neoplasm
_LESION_CODE = Code("52988006", "SCT", "Lesion")


def value_text(value: int) -> str:
    """The text from which `VALUE_TEXT` reads a label's value."""
    return f"ctseg label value {value}"


def concepts(name: str) -> tuple[Code, Code]:
    """Category and type of a segment (DICOM CIDs 7150 and 7151) from a label's name.

    Tumours and lesions are recognised by words in the name, organs by their SNOMED CT term in pydicom's dictionary,
    ignoring the side. Any other name becomes an anatomical structure without a more specific type; the segment's label
    contains the name itself in any case.
    """
    plain = name.lower().replace("-", " ").replace("_", " ")
    if _TUMOUR.search(plain):
        return _ABNORMAL, _NEOPLASM
    if _LESION.search(plain):
        return _ABNORMAL, _LESION_CODE
    words = _SIDES.sub(" ", plain).split()
    code = getattr(codes.SCT, "".join(word.capitalize() for word in words), None) if words else None
    return _ANATOMY, code if isinstance(code, Code) else _ANATOMY


def rgb_of(cielab: Sequence[int] | None) -> tuple[int, int, int] | None:
    """Red, green, blue in 0..255 of a RecommendedDisplayCIELabValue; None without one."""
    if not cielab or len(cielab) != 3:
        return None
    from highdicom.color import CIELabColor

    lightness, a, b = (int(v) for v in cielab)
    red, green, blue = CIELabColor.from_dicom_value((lightness, a, b)).to_rgb(clip=True)
    return int(red), int(green), int(blue)


def cielab_of(rgb: tuple[int, int, int]) -> Any:
    """A colour in highdicom's form."""
    from highdicom.color import CIELabColor

    return CIELabColor.from_rgb(*rgb)
