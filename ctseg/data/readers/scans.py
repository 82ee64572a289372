"""Scans in a folder, whatever their format."""

from __future__ import annotations

from pathlib import Path

from ctseg.volume.io import format_of, scan_files


def find_scans(folder: Path, *, depth: int = 6) -> list[Path]:
    """Every volume in a folder and the folders in it: files of a known format, folders of slices, and stores."""
    store = format_of(folder)
    if store is not None and any(folder.name.lower().endswith(s) for s in store.suffixes):
        return [folder]
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    loose = any(entry.is_file() and format_of(entry) is not None for entry in entries)
    if store is not None and not loose:
        parts = store.parts(folder) if store.parts is not None else {}
        if len(parts) < 2:
            return [folder]  # one series, spread over folders
    below: list[Path] = []
    for entry in entries:
        if entry.is_dir() and depth:
            below += find_scans(entry, depth=depth - 1)
    kinds: dict[str, list[Path]] = {}
    for entry in scan_files(entry for entry in entries if entry.is_file()):
        spec = format_of(entry)
        if spec is not None:
            kinds.setdefault(spec.name, []).append(entry)
    whole = format_of(folder) if len(kinds) == 1 else None
    if whole is not None and sum(map(len, kinds.values())) > 1:
        return [folder, *below]  # its files are the slices of one scan
    found: list[Path] = []
    for name, files in kinds.items():
        slices = name == "dicom" and len(files) > 1
        found += [folder] if slices else files
    return sorted(found) + below
