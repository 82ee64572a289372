"""A network whose values mean nothing leaves no result behind."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.engine.inference.memory.activations import activation_bytes
from ctseg.engine.model.runtime import choose
from ctseg.engine.model.weights import save_weights
from ctseg.engine.prediction.api import Segmenter
from ctseg.errors import BadInput, RunFailed
from ctseg.specs import Constraints

_spec = importlib.util.spec_from_file_location(
    "small_model", Path(__file__).parents[1] / "small_model.py"
)
assert _spec is not None and _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)


def spoilt(value: float) -> torch.nn.Module:
    """One class of three gets this value at every voxel."""
    network = small.network_of()
    with torch.no_grad():
        network.heads[-1].bias[1] = value
    return network


VALUES = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("members", [1, 2])
def test_no_map_is_made_of_it(value, members):
    networks = [small.network_of(), spoilt(value)][-members:]
    model = Segmenter(small.card_of(), networks, choose("cpu", "fp32"))
    for call in (model.predict, model.probabilities):
        with pytest.raises(RunFailed, match=r"NaN or infinite values.*'heads\.0\.bias'"):
            call(small.scan())


@pytest.mark.parametrize("value", VALUES)
def test_the_command_fails_and_writes_nothing(value, tmp_path: Path):
    save_weights(tmp_path / "model.safetensors", spoilt(value).state_dict(), small.card_of())
    (given,) = small.scans(tmp_path, 1)
    result = CliRunner().invoke(
        app, ["predict", str(given), "-m", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "out.nii.gz")]
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "NaN or infinite" in " ".join(result.output.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", given.name]


class Several(torch.nn.Module):
    """Gives more than logits."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def test_a_model_that_gives_several_tensors_is_refused():
    runtime = choose("cpu", "fp32")
    with pytest.raises(BadInput, match="returns a tuple"):
        Segmenter(small.card_of(), [Several()], runtime).predict(small.scan())
    with pytest.raises(BadInput, match="returns a tuple"):
        activation_bytes(
            Several(), (8, 8, 8), in_channels=1, runtime=runtime, constraints=Constraints()
        )


def test_a_sound_model_is_not_held_up():
    assert np.isin(small.small_model().predict(small.scan()).array, (0, 1, 2)).all()
