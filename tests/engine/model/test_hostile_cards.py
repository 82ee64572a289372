"""Cards that are not those of their weights cost neither memory nor files of this machine."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

import ctseg
from ctseg.card import Provider
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.build import build, build_for
from ctseg.engine.model.weights import save_weights
from ctseg.errors import CorruptWeights, CtsegError
from tests.engine import small_model as small

REAL = small.network_of().state_dict()


@pytest.mark.parametrize(
    "features",
    [[4096, 8192], [4] * 3000, [60000, 120000]],
    ids=["2 GiB", "many levels", "1 TiB"],
)
def test_a_card_of_a_far_larger_network_costs_no_memory(tmp_path: Path, features):
    card = small.card_of(options={"features": features})
    file = tmp_path / "hostile.safetensors"
    save_weights(file, REAL, card)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CtsegError) as caught:
        NetworkModel.from_files([file], device="cpu")
    assert caught.value.exit_code == 2
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * 1024  # KiB


def test_what_a_network_makes_besides_its_weights_is_allowed():
    assert sum(p.numel() for p in build_for(small.card_of(), REAL).parameters()) == sum(
        p.numel() for p in small.network_of().parameters()
    )
    ctseg.create_model(
        "unet3d", in_channels=1, out_channels=2, features=(64, 128)
    )  # no bound any more


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "other.safetensors"
    save_weights(file, REAL, small.card_of(options={"features": [8, 8]}))
    with pytest.raises(CorruptWeights, match="do not fit the network"):
        NetworkModel.from_files([file], device="cpu")


def test_a_card_cannot_name_a_file_of_this_machine(tmp_path):
    secret = tmp_path / "secret.safetensors"
    card = small.card_of(
        architecture="timm_unet", options={"encoder": "resnet10t", "encoder_weights": str(secret)},
        provider=Provider(package="ctseg"), predict=ctseg.config.PredictConfig(tile_zyx=(1, 32, 32)),
    )  # fmt: skip
    assert isinstance(build(card), torch.nn.Module)  # the missing file is not asked for
    with pytest.raises(CtsegError, match="secret"):
        build(card, {"encoder_weights": str(secret)})
