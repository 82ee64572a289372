"""Every registered format, and readers on real data sets, through the kit that plugin authors use."""

from __future__ import annotations

import dataclasses

import pytest

from ctseg import plugins, testing
from ctseg.specs import DataSet

WRITABLE = [
    spec.name for spec in plugins.formats() if spec.writer is not None and not spec.needs_reference
]


@pytest.mark.parametrize("name", WRITABLE)
def test_formats_keep_the_contract(name, tmp_path):
    options = {"channels": "last"} if name == "nifti" else None
    spec = plugins.format_named(name)
    testing.check_format(
        spec, tmp_path, oblique="direction" not in spec.lacks, channel_options=options
    )


def test_a_format_that_forgets_the_direction_is_found_out(tmp_path):
    spec = plugins.format_named("tiff")
    with pytest.raises(AssertionError, match="the grid comes back changed"):
        testing.check_format(spec, tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("reader", "path"),
    [
        ("nnunet", "Dataset004_Hippocampus"),
        ("decathlon", "sts_ct"),
        ("hdf5", "weave_microct/weave.h5"),
    ],
)
def test_readers_keep_the_contract(real_data, reader, path):
    data = testing.check_reader(plugins.reader(reader), real_data / path)
    assert data.cases


@pytest.mark.real_data
def test_a_reader_that_lists_a_case_twice_is_found_out(real_data):
    spec = plugins.reader("decathlon")

    def twice(path) -> DataSet:
        data = spec.cases(path)
        return dataclasses.replace(data, cases=(*data.cases, data.cases[0]))

    with pytest.raises(AssertionError, match="two cases have one id"):
        testing.check_reader(dataclasses.replace(spec, cases=twice), real_data / "sts_ct")
