"""Export a published model: networks written and checked in a temporary folder, which is named when it is whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctseg.card import Card
from ctseg.errors import FileProblem
from ctseg.files import whole_folder, write_text
from ctseg.zoo.exporters.description import FORMAT, describe
from ctseg.zoo.exporters.nnunet import check_name, export_nnunet
from ctseg.zoo.exporters.original import Exported
from ctseg.zoo.exporters.programs import export_onnx, export_torch
from ctseg.zoo.resolve import resolve_model

Kind = Literal["nnunet", "onnx", "torch-export"]
DESCRIPTION = "model.json"


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: that holds it.
        card: of the model.
        networks: the networks, with how far their logits are from the original's.
        notes: what the other tool does otherwise, or what else is needed.
    """

    folder: Path
    card: Card
    networks: Sequence[Exported]
    notes: tuple[str, ...]


def export_model(
    name: str | Path,
    kind: Kind,
    target: Path | str,
    *,
    zoo: Path | str | None = None,
    overwrite: bool = False,
) -> Export:
    """Export a model, with a `model.json` that says all that the networks do not.

    Args:
        name: as `ctseg.load` takes it.
        kind: `nnunet` (a results folder), `onnx` or `torch-export` (a program for each network).
        target: the folder to write; for nnU-Net `DatasetNNN_Name`.
        zoo: zoo to look in first.
        overwrite: replace an earlier export there.

    Raises:
        BadInput: the model cannot be expressed in this format; the message has the reasons.
        FileProblem: the folder holds something else, or cannot be written.
        RunFailed: an exported network gives other logits than the original; nothing is written then.
    """
    folder = Path(target).expanduser()
    if kind == "nnunet":
        check_name(folder.resolve().name)
    _check_target(folder, overwrite)
    model = resolve_model(name, zoo)
    with whole_folder(folder, replace=overwrite) as temporary:
        notes: tuple[str, ...] = ()
        if kind == "nnunet":
            networks, notes = export_nnunet(model, temporary, folder.resolve().name, zoo)
        else:
            networks = (export_onnx if kind == "onnx" else export_torch)(model, temporary)
            notes = tuple(
                f"It needs {stage.model}, which is exported by itself."
                if stage.card is None
                else f"It needs its first stage, which is exported by itself: ctseg zoo export "
                f"{model.files[0].parent / stage.card.members[0].file}"
                for stage in model.card.stages
            )
        about = describe(model.card, networks, temporary) | {"files": _files(temporary)}
        text = json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(temporary / DESCRIPTION, text + "\n")
    return Export(folder, model.card, networks, notes)


def _check_target(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless it is an export that may be replaced, and nothing more.

    Raises:
        FileProblem: instead.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    earlier = _exported(folder)
    if earlier is None:
        what, hint = "something else than an export", "Choose another folder with -o."
    elif others := [file for file in _files(folder) if file not in (*earlier, DESCRIPTION)]:
        what = f"{others[0]}, which the export there did not write"
        hint = "Move it away, or choose another folder with -o."
    elif overwrite:
        return
    else:
        what, hint = "an export", "Replace it with --overwrite, or choose another folder with -o."
    raise FileProblem(f"{folder} exists and holds {what}.", hint=hint)


def _exported(folder: Path) -> list[str] | None:
    """The files that an export wrote into a folder; None if there is no export."""
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    files = content.get("files")
    return files if isinstance(files, list) else []


def _files(folder: Path) -> list[str]:
    """The files below a folder, links to folders among them, as relative paths with slashes."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in paths)
