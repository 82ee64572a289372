"""Settings of other projects that are not whole."""

from __future__ import annotations

import pytest

from ctseg.errors import BadInput
from ctseg.nets.foreign import nnunet, pytorch3dunet

LAYERS = {"n_stages": 2, "conv_op": "torch.nn.Conv3d"}


@pytest.mark.parametrize(
    ("architecture", "missing"),
    [
        ({"arch_kwargs": {}}, "network_class_name"),
        ({"network_class_name": "x.PlainConvUNet"}, "arch_kwargs"),
        ({"network_class_name": "x.PlainConvUNet", "arch_kwargs": {}}, "n_stages"),
        ({"network_class_name": "x.PlainConvUNet", "arch_kwargs": LAYERS}, "strides"),
    ],
)
def test_plans_without_a_key_are_refused_by_its_name(architecture, missing):
    plans = {"configurations": {"3d_fullres": {"architecture": architecture}}}
    with pytest.raises(BadInput, match=f"no '{missing}' in the"):
        nnunet.read_plans(plans)


@pytest.mark.parametrize("missing", ["in_channels", "out_channels"])
def test_a_configuration_without_a_key_is_refused_by_its_name(missing):
    model = {"name": "UNet3D", "in_channels": 1, "out_channels": 2}
    del model[missing]
    with pytest.raises(BadInput, match=f"no '{missing}' in the section"):
        pytorch3dunet.read_config(model)
