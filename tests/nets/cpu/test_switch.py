"""The kernels leave layers, threads and the rest of the package alone, and one switch turns them off."""

from __future__ import annotations

import ast
import io
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import ctseg
from ctseg.engine.model.runtime import Runtime, choose
from ctseg.nets.cpu import autocast, use_cpu_kernels, winograd

BF16 = Runtime(torch.device("cpu"), "bf16", True, "test")
FP32 = choose("cpu", "fp32")
PYTORCH = nn.Conv3d._conv_forward


@pytest.fixture(autouse=True)
def bf16_processor(monkeypatch):
    monkeypatch.setattr(autocast, "has_amx", lambda: False)


@pytest.fixture
def taken(monkeypatch):
    """The threads of convolutions that took fewer products."""
    found, real = [], winograd.convolve

    def convolve(*arguments):
        found.append(threading.current_thread())
        return real(*arguments)

    monkeypatch.setattr(winograd, "convolve", convolve)
    return found


def unet() -> nn.Module:
    torch.manual_seed(0)
    return ctseg.create_model("unet3d", in_channels=1, out_channels=2, features=(32, 64)).eval()


def layers() -> nn.Module:
    """The first gets its input as the test lays it out, whatever the processor's own convolutions give."""
    torch.manual_seed(0)
    return BF16.place(nn.Sequential(nn.Conv3d(32, 32, 3, padding=1), nn.Conv3d(32, 1, 1)).eval())


def scan(channels: int = 1) -> torch.Tensor:
    return torch.randn(1, channels, 16, 16, 16, generator=torch.Generator().manual_seed(1))


def plain_bf16(net: nn.Module) -> torch.Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return net(BF16.tensor(scan(32)))


def ours(net: nn.Module) -> torch.Tensor:
    with torch.inference_mode(), BF16.autocast():
        return net(BF16.tensor(scan(32)))


def test_one_constant_turns_everything_off(monkeypatch, taken):
    net = layers()
    usual, faster = plain_bf16(net), ours(net)
    assert taken and not torch.equal(usual, faster)
    taken.clear()
    monkeypatch.setattr(autocast, "ENABLED", False)
    assert torch.equal(ours(net), usual)
    assert not taken


def test_float32_is_pytorchs():
    net = unet()
    with torch.inference_mode():
        plain = net(scan())
        with FP32.autocast():
            assert torch.equal(FP32.place(net)(FP32.tensor(scan())), plain)


def test_no_layer_is_changed_and_the_model_is_pickled_as_it_was():
    net = unet()
    classes = [type(module) for module in net.modules()]
    attributes = [list(vars(module)) for module in net.modules()]
    seen = []
    net.register_forward_hook(lambda *_: seen.append([type(module) for module in net.modules()]))
    with torch.inference_mode(), BF16.autocast():
        BF16.place(net)(BF16.tensor(scan()))
    net._forward_hooks.clear()
    assert seen == [classes]
    assert [type(module) for module in net.modules()] == classes
    assert [list(vars(module)) for module in net.modules()] == attributes
    assert b"ctseg.nets.cpu" not in pickled(net)
    assert nn.Conv3d._conv_forward is PYTORCH


def pickled(net: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(net, file)
    return file.getvalue()


def test_pytorch_is_left_as_it_was_after_an_error():
    with pytest.raises(KeyError), BF16.autocast():
        raise KeyError
    assert nn.Conv3d._conv_forward is PYTORCH
    assert not autocast.is_active()


def test_contexts_nest(taken):
    net = layers()
    with use_cpu_kernels():
        ours(net)
        few = len(taken)
        assert few
        plain_bf16(net)  # mixed precision is on, in this thread's context
        assert len(taken) > few
    assert nn.Conv3d._conv_forward is PYTORCH


def test_what_another_library_put_there_comes_back(monkeypatch):
    calls = []

    def theirs(layer, *arguments):
        calls.append(layer)
        return PYTORCH(layer, *arguments)

    monkeypatch.setattr(nn.Conv3d, "_conv_forward", theirs)
    layer = nn.Conv3d(1, 2, 3)
    with BF16.autocast():
        layer(scan())
    assert calls == [layer]
    assert nn.Conv3d._conv_forward is theirs


def test_threads_have_contexts_of_their_own(taken):
    """One predicts in mixed precision of ours while another does in its own."""
    net = layers()
    usual, faster = plain_bf16(net), ours(net)
    taken.clear()
    inside, done = threading.Event(), threading.Event()
    found = []

    def other() -> None:
        assert inside.wait(60)
        found.extend(plain_bf16(net) for _ in range(3))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with torch.inference_mode(), BF16.autocast():
        inside.set()
        while not done.is_set():
            assert torch.equal(net(BF16.tensor(scan(32))), faster)
    thread.join()
    assert set(taken) == {threading.current_thread()}
    assert all(torch.equal(each, usual) for each in found)
    assert nn.Conv3d._conv_forward is PYTORCH


def test_contexts_of_threads_may_end_in_any_order(taken):
    net = layers()
    begun, go_on = threading.Event(), threading.Event()

    def other() -> None:
        with BF16.autocast():
            begun.set()
            assert go_on.wait(60)

    thread = threading.Thread(target=other)
    with torch.inference_mode(), BF16.autocast():
        thread.start()
        assert begun.wait(60)
    go_on.set()
    thread.join()
    assert nn.Conv3d._conv_forward is PYTORCH
    ours(net)
    assert taken


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_layers_compute_the_same_in_the_backward_pass(taken, use_reentrant):
    """A volume that is too small for bfloat16, and one that is large enough for fewer products."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv3d(32, 32, 3, padding=1), nn.Conv3d(32, 32, 3, (8, 1, 1), 1))
    BF16.place(layers)
    x = BF16.tensor(torch.randn(1, 32, 16, 12, 12)).requires_grad_()
    found = []
    for kept in (False, True):
        with BF16.autocast():
            y = layers(x) if kept else checkpoint(layers, x, use_reentrant=use_reentrant)
        taken.clear()
        with BF16.kernels():
            found.append(torch.autograd.grad(y.float().square().sum(), [x]) if kept else back(y, x))
        assert len(taken) == (0 if kept else 1)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def back(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor]:
    """The gradient by way of `backward`, which is the only one that a reentrant checkpoint allows."""
    x.grad = None
    y.float().square().sum().backward()
    assert x.grad is not None
    return (x.grad.clone(),)


def test_the_rest_of_the_package_knows_two_names():
    """So that the folder is removed with a few lines."""
    package = Path(ctseg.__file__).parent
    folder = package / "nets" / "cpu"
    users = {}
    for path in package.rglob("*.py"):
        if folder in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "ctseg.nets":
                names = {name.name for name in node.names} & {"cpu"}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "ctseg.nets.cpu"
            ):
                assert node.module == "ctseg.nets.cpu", path
                names = {name.name for name in node.names}
            elif isinstance(node, ast.Import):
                assert not any(n.name.startswith("ctseg.nets.cpu") for n in node.names), path
                continue
            else:
                continue
            if names:
                users.setdefault(path.relative_to(package).as_posix(), set()).update(names)
    assert users == {"engine/model/runtime.py": {"use_cpu_kernels"}, "nets/unet.py": {"cpu"}}
    text = (package / "nets" / "unet.py").read_text("utf-8")
    assert text.count("cpu.") == text.count("cpu.fused_level(") == 1


def test_float32_that_is_chosen_uses_the_kernels(monkeypatch):
    """Where the processor has no bfloat16; asked for by name it computes as PyTorch does."""
    monkeypatch.setattr("ctseg.engine.model.runtime.cpu_bf16", lambda: False)
    chosen, asked = choose("cpu"), choose("cpu", "fp32")
    assert chosen.precision == asked.precision == "fp32"
    for runtime, active in ((chosen, True), (asked, False)):
        with runtime.autocast():
            assert autocast.is_active() is active
