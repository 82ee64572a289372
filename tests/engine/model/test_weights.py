"""Weight files: what goes in comes out, and whatever is damaged is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from ctseg.card import Card, Member, Provider, TrainingData
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.engine.model.weights import (
    cast,
    load_strictly,
    read_card,
    read_weights,
    save_weights,
    tensors_sha256,
)
from ctseg.errors import BadInput, CorruptWeights, FileProblem
from ctseg.task import classes_task


def _tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shared = torch.randn(3, 4)
    return {
        "b.weight": shared,
        "a.weight": shared,
        "half": torch.randn(2, 3).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 2),
        "strided": torch.randn(4, 6)[:, ::2],
    }


def _card(tensors: dict[str, torch.Tensor] | None = None) -> Card:
    members = (
        [Member(file="w.safetensors", tensors_sha256=tensors_sha256(tensors))] if tensors else []
    )
    return Card(
        architecture="unet3d", provider=Provider(package="ctseg"), in_channels=1, out_channels=2,
        channels=("CT",), task=TaskConfig.of(classes_task({"å": 1})), preprocess=PreprocessConfig(),
        predict=PredictConfig(), training_data=TrainingData(name="X"), members=tuple(members),
    )  # fmt: skip


def test_tensors_and_card_come_back(tmp_path: Path) -> None:
    tensors, path = _tensors(), tmp_path / "deep" / "w.safetensors"
    card = _card(tensors)
    save_weights(path, tensors, card)
    loaded, found = read_weights(path)
    assert found == card == read_card(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    with safetensors.safe_open(path, framework="pt") as file:  # another reader sees the card too
        assert "ctseg_card" in file.metadata()


def test_the_checksum_sees_names_types_shapes_and_bytes() -> None:
    base = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    same = {"b": torch.zeros(2), "a": torch.arange(6.0)}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].reshape(2, 3), "b": base["b"]},
        {"a": base["a"], "b": torch.zeros(2, dtype=torch.int32)},
        {"a": base["a"] + 1e-6, "b": base["b"]},
    ]
    assert tensors_sha256(base) == tensors_sha256(same)
    assert len({tensors_sha256(t) for t in [base, *others]}) == 5


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda b: b[:-3], "should have"),
        (lambda b: b + b"x", "should have"),
        (lambda b: b[:40], "only the start"),
        (lambda b: b"", "no safetensors"),
        (lambda b: b"PK\x03\x04 a zip, as torch writes", "no safetensors"),
        (lambda b: (2**63).to_bytes(8, "little") + b[8:], "no safetensors"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "checksum"),
        (lambda b: (10**5).to_bytes(8, "little") + b"[" * 10**5, "no safetensors"),
    ],
)
def test_damage_is_found(tmp_path: Path, damage, words: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, _tensors(), _card(_tensors()))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptWeights, match=words) as found:
        read_weights(path)
    assert found.value.exit_code == 2


def test_weights_of_another_origin_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CorruptWeights, match="without a ctseg card"):
        read_weights(path)
    with pytest.raises(FileProblem, match="does not exist"):
        read_card(tmp_path / "none.safetensors")
    with pytest.raises(FileProblem, match="cannot be read"):
        read_card(tmp_path)


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileProblem, match="disk is full"):
        save_weights(tmp_path / "w.safetensors", _tensors(), _card())
    assert list(tmp_path.iterdir()) == []


def test_casting_keeps_counts_and_refuses_what_does_not_fit() -> None:
    out = cast({"w": torch.tensor([1.5, 2.0]), "n": torch.tensor(3)}, "fp16")
    assert (out["w"].dtype, out["n"].dtype) == (torch.float16, torch.int64)
    with pytest.raises(BadInput, match="fp16 cannot hold"):
        cast({"w": torch.tensor([1e6])}, "fp16")
    with pytest.raises(BadInput, match="fp8"):
        cast({}, "fp8")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    load_strictly(net, {"weight": torch.ones(2, 2).half(), "bias": torch.zeros(2)}, tmp_path)
    assert net.weight.dtype == torch.float32
    with pytest.raises(CorruptWeights, match="do not fit"):
        load_strictly(net, {"weight": torch.ones(2, 2)}, tmp_path)
