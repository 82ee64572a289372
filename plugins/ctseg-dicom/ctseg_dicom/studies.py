"""A folder of DICOM studies as a data set: in each a scan, and a SEG or RT structure set drawn on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ctseg.data.readers import layout
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Case, DataSet, ImageRef, frozen
from ctseg.volume.formats.dicom.series import Series, list_series, read_headers
from ctseg_dicom.choose import MISSING
from ctseg_dicom.sniff import SEGMENTATION, STRUCTURE_SET, object_in

KINDS = {"RTSTRUCT": ("rtstruct", "roi"), "SEG": ("dicom_seg", "segments")}
_PATIENT = 0x00100020
_FEW = 3
"""Number of DICOM files above which a folder holds slices, and is not searched for labels."""


def recognise(path: Path) -> bool:
    """Whether folders below a folder without `dataset.json` hold a SEG or RT structure set."""
    if not path.is_dir() or (path / "dataset.json").is_file():
        return False
    for where, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if Path(where) == path:
            continue
        files = [Path(where) / name for name in sorted(names) if not name.startswith(".")]
        if len(files) <= _FEW and any(
            object_in(file, SEGMENTATION | STRUCTURE_SET) is not None for file in files
        ):
            return _beside(path)
    return False


def _beside(path: Path) -> bool:
    """Whether there are no folders of images and labels here, which the reader `pairs` recognises."""
    from ctseg.data.readers import pairs

    return not pairs.recognise(path)


def cases(
    path: Path,
    *,
    labels: str | None = None,
    image: str = "*",
    label: str = "*",
    ignore: str | int | None = None,
    missing: str = "refuse",
    overlaps: str = "refuse",
) -> DataSet:
    """Find studies and pair their scans with their segmentations.

    Args:
        path: a folder; each study in it is a case, its patient the group.
        labels: `tumour=GTV*|Tumor,liver=Liver`: names of the task's labels, and patterns of the regions of interest or
            segments that form each (`*` and `?` as in file names, `|` for either). By default every file's own numbers
            are the values, which suits only files written by one program.
        image: series that is the scan: its modality or a pattern of its description.
        label: object that holds the labels: `SEG`, `RTSTRUCT` or a pattern of its description.
        ignore: value of unlabelled voxels.
        missing: `refuse`, or `empty` for studies that lack a region of `labels`, whose value then has no voxels.
        overlaps: `refuse`, or `last`, which keeps the later label where regions overlap.

    Raises:
        FileProblem: there are no studies, or files are damaged.
        BadInput: a study has several scans or label objects, or no scan; another word for `missing` or `overlaps`.
    """
    from ctseg_dicom.files import check_word  # imports pydicom, which `recognise` does not need

    check_word("missing", missing, MISSING, path)
    check_word("overlaps", overlaps, ("refuse", "last"), path)
    words = {"missing": missing, "overlaps": overlaps}
    reading = {name: word for name, word in words.items() if word != "refuse"}
    studies: dict[str, list[Series]] = {}
    for series in list_series(path):
        studies.setdefault(series.study_uid, []).append(series)
    if not studies:
        raise FileProblem(f"{path} holds no DICOM files: the data set is empty.")
    patterns = _patterns(labels)
    cases_, modalities = [], set()
    for study in studies.values():
        scan = _one([s for s in study if s.image], image, "scan", "image", study)
        drawn = _one(
            [s for s in study if s.modality in KINDS], label, "label object", "label", study
        )
        if scan is None:
            continue
        if drawn is not None and len(drawn.files) > 1:
            raise BadInput(
                f"The study of {scan.files[0].parent} has {len(drawn.files)} {drawn.modality} files in one series; "
                "which of them holds its labels?",
                hint="Keep one of them: " + ", ".join(file.name for file in drawn.files[:5]),
            )
        modalities.add(scan.modality)
        cases_.append(_case(path, scan, drawn, patterns, reading))
    labelled = layout.finish_cases([case for case in cases_ if case.label is not None], where=path)
    names = ",".join(f"{name}={value}" for value, name in enumerate(patterns, start=1)) or None
    return DataSet(
        name=path.resolve().name,
        path=path,
        reader="dicom_studies",
        cases=labelled,
        unlabelled=layout.finish_cases([c for c in cases_ if c.label is None], where=path),
        channels=(modalities.pop() if len(modalities) == 1 else "image",),
        task=layout.named_task(names, ignore),
        splits=layout.load_splits(path, labelled),
    )


def _patterns(labels: str | None) -> dict[str, str]:
    """Pattern of regions by label name."""
    out: dict[str, str] = {}
    for part in labels.split(",") if labels else []:
        name, mark, pattern = part.partition("=")
        if not mark or not name.strip() or not pattern.strip():
            raise BadInput(
                f"'{part}' names no label.", hint="For example: labels=tumour=GTV*|Tumor"
            )
        out[name.strip()] = pattern.strip()
    return out


def _one(
    series: Sequence[Series], pattern: str, what: str, option: str, study: Iterable[Series]
) -> Series | None:
    """The only series that fits; None if none fits."""
    fitting = [s for s in series if _fits(s, pattern)]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    raise BadInput(
        f"A study has {len(fitting)} series that may be its {what}.",
        hint=f"Choose with the option {option}=MODALITY or a pattern of the description. It holds:"
        + "".join(f"\n    {one.line}" for one in study),
    )


def _fits(series: Series, pattern: str) -> bool:
    texts = (series.modality.lower(), series.description.lower(), series.uid)
    return any(fnmatchcase(text, pattern.strip().lower()) for text in texts)


def _case(
    path: Path,
    scan: Series,
    drawn: Series | None,
    patterns: dict[str, str],
    reading: dict[str, str],
) -> Case:
    folder = Path(os.path.commonpath([file.parent for file in scan.files]))
    label = None
    if drawn is not None:
        format_name, option = KINDS[drawn.modality]
        options = {"format": format_name, "series": str(folder), **reading}
        if patterns:
            options[option] = ",".join(patterns.values())
        label = ImageRef(drawn.files[0], frozen(options))
    study = Path(os.path.commonpath([f.parent for s in (scan, drawn) if s for f in s.files]))
    name = "_".join(study.resolve().relative_to(path.resolve()).parts) or path.resolve().name
    return Case(
        id=name,
        images=(ImageRef(folder, frozen({"format": "dicom", "series": scan.uid})),),
        label=label,
        group=read_headers(scan.files[0])[0].text(_PATIENT) or None,
    )
