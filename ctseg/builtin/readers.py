"""The built-in readers of data set layouts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from ctseg.hookspecs import hookimpl
from ctseg.specs import DataSet, ReaderSpec, frozen


def _recognise(module: str) -> Callable[[Path], bool]:
    def recognise(path: Path) -> bool:
        file = importlib.import_module(f"ctseg.data.readers.{module}")
        return cast(bool, file.recognise(path))

    return recognise


def _cases(module: str) -> Callable[..., DataSet]:
    def cases(path: Path, **options: Any) -> DataSet:
        file = importlib.import_module(f"ctseg.data.readers.{module}")
        return cast(DataSet, file.cases(path, **options))

    return cases


@hookimpl
def ctseg_readers() -> Sequence[ReaderSpec]:
    """Medical Segmentation Decathlon, nnU-Net raw, HDF5, pairs in folders, lists of cases."""
    names = {
        "names": "e.g. liver=1,tumour=2; by default every value found in the labels",
        "ignore": "label value of unlabelled voxels, none by default",
    }
    outside = {"outside": "'yes' also reads files outside the folder that a file names"}
    return [
        ReaderSpec(
            name="decathlon",
            recognise=_recognise("decathlon"),
            cases=_cases("decathlon"),
            summary="Medical Segmentation Decathlon folder: dataset.json with a training list",
            options=frozen(outside),
        ),
        ReaderSpec(
            name="nnunet",
            recognise=_recognise("nnunet"),
            cases=_cases("nnunet"),
            summary="nnU-Net raw folder: dataset.json with channel_names, imagesTr, labelsTr",
            options=frozen(outside),
        ),
        ReaderSpec(
            name="hdf5",
            recognise=_recognise("hdf5"),
            cases=_cases("hdf5"),
            summary="HDF5 with /raw and /label: a file, a folder of files or a glob",
            options=frozen(
                {
                    "raw": "dataset of the scan, /raw by default",
                    "label": "dataset of the labels, /label by default",
                    "weight": "dataset of voxel weights, none by default",
                    "mask": "dataset that is 0 where labels do not count, none by default",
                    **outside,
                    **names,
                }
            ),
        ),
        ReaderSpec(
            name="pairs",
            recognise=_recognise("pairs"),
            cases=_cases("pairs"),
            summary="a folder of images and one of labels, or two patterns of names",
            options=frozen(
                {
                    "images": "pattern such as scans/*.nii.gz, one per channel, separated by commas",
                    "labels": "pattern such as masks/*_seg.nii.gz",
                    "weights": "pattern of weight maps, none by default",
                    "masks": "pattern of maps that are 0 where labels do not count",
                    "channels": "names separated by commas; CT means Hounsfield units",
                    **names,
                }
            ),
        ),
        ReaderSpec(
            name="list",
            recognise=_recognise("listing"),
            cases=_cases("listing"),
            summary="CSV or JSON list: image, label, and weight, mask, group, fold of each case",
            options=frozen(
                {"channels": "names separated by commas; CT means Hounsfield units", **names}
            ),
        ),
    ]
