"""Every kind of file that ctseg reads and that a stranger, a disk or a kill may have damaged."""

from __future__ import annotations

from tests.hostile import (
    containers,
    data_sets,
    dicom_objects,
    foreign,
    headers,
    microct,
    models,
    runs,
)
from tests.hostile.target import Target

SMALL = 64 << 20
"""Bytes that are enough for the small objects of DICOM."""

TARGETS = {
    target.name: target
    for target in (
        Target("nifti", headers.nifti),
        Target("nrrd", headers.nrrd),
        Target("metaimage", headers.metaimage),
        Target("tiff", containers.tiff),
        Target("ome-tiff", containers.ome_tiff),
        Target("slices", containers.slices),
        Target("hdf5", containers.hdf5),
        Target("zarr", containers.zarr, needs=("ctseg_zarr",)),
        Target("microct", microct.files, needs=("ctseg_microct",)),
        Target("dicom", dicom_objects.dicom, memory=SMALL),
        Target("dicom-seg", dicom_objects.dicom_seg, needs=("ctseg_dicom",), memory=SMALL),
        Target("rtstruct", dicom_objects.rtstruct, needs=("ctseg_dicom",), memory=SMALL),
        Target("card", models.card),
        Target("weights", models.weights),
        Target("index", models.index),
        Target("remote-index", models.remote_index),
        Target("run-file", runs.run_file),
        Target("state", runs.state),
        Target("log", runs.log),
        Target("predictions", runs.predictions),
        Target("report", runs.report),
        Target("dataset", data_sets.dataset),
        Target("splits", data_sets.splits),
        Target("case-list", data_sets.case_list),
        Target("nnunet", foreign.nnunet, needs=("nnunetv2",)),
    )
}
