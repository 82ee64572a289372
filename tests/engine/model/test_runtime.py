"""What a training run arranges in torch, and that it leaves torch as it was."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from ctseg.engine.model.runtime import choose, cpu_bf16, repeatable
from ctseg.engine.training import loop


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def states():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_a_table_that_threads_add_to_gets_the_same_gradient_each_time(two_threads):
    """As in a transformer's relative positions: 32,768 places in 343 rows."""
    torch.manual_seed(0)
    table = torch.randn(343, 3, requires_grad=True)
    index, weight = torch.randint(343, (2**15,)), torch.randn(2**15, 3)
    with repeatable(torch.device("cpu")):
        found = [
            torch.autograd.grad((table[index] * weight).sum(), table)[0].clone() for _ in range(30)
        ]
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("before", [(False, False), (True, False), (True, True)])
def test_torch_is_left_as_it_was(before):
    usual = states()
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    try:
        with contextlib.suppress(KeyError), repeatable(torch.device("cpu")):
            assert states() == (True, True, False)
            raise KeyError
        assert states() == (*before, usual[2])
        with repeatable(torch.device("meta")):
            assert states() == (*before, usual[2])
    finally:
        torch.use_deterministic_algorithms(usual[0], warn_only=usual[1])


def test_training_on_a_cpu_is_repeatable(monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "loader_of", lambda job: contextlib.nullcontext())
    monkeypatch.setattr(loop, "_train", lambda *arguments: seen.append(states()))
    loop.train(SimpleNamespace(runtime=choose("cpu")))
    assert seen == [(True, True, False)]


@pytest.mark.parametrize(
    ("limit", "bf16"),
    [(None, True), ("ALL", True), ("AVX512_CORE_BF16", True), ("avx2", False), ("AVX512_CORE", False)],
)  # fmt: skip
def test_what_onednn_is_held_to_counts(monkeypatch, limit, bf16):
    """Names of oneDNN's developer guide, "CPU Dispatcher Control"."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
        if limit is not None:
            monkeypatch.setenv(name, limit)
        assert cpu_bf16() is bf16
        assert choose("cpu").precision == ("bf16" if bf16 else "fp32")
