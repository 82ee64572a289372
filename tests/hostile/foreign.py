"""A small results folder of nnU-Net v2."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from ctseg.zoo.importers.nnunet import read, recognise
from tests.hostile.mutate import document, number, packed, scramble, word
from tests.hostile.target import Seed


def nnunet(folder: Path) -> list[Seed]:
    from tests.conformance.nnunet_folders import dataset_json, plans, results_folder

    about = dataset_json(name="Made", description="Noise")
    made = plans(patch=(8, 8, 8), strides=((1, 1, 1), (2, 2, 2)))
    results = results_folder(folder, made, about)
    (weights,) = results.rglob("*.pth")
    inside = [scramble(), scramble(), number(), word()]
    ways = (scramble(), number(), *(packed(inside, _pickle_of, _with_pickle),) * 4)
    return [
        Seed("plans", results, [results / "plans.json"], document(), _read, vanish=True),
        Seed("dataset", results, [results / "dataset.json"], document(), _read, vanish=True),
        Seed("checkpoint", results, [weights], ways, _read, vanish=True),
    ]


def _read(path: Path) -> None:
    recognise(path)
    read([path])


def _pickle_of(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(_pickle(archive))


def _with_pickle(content: bytes, pickled: bytes) -> bytes:
    """The checkpoint with another table of contents, its checksums right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as new:
        for member in archive.infolist():
            found = pickled if member.filename == _pickle(archive) else archive.read(member)
            new.writestr(member.filename, found)
    return out.getvalue()


def _pickle(archive: zipfile.ZipFile) -> str:
    return next(name for name in archive.namelist() if name.endswith("data.pkl"))
