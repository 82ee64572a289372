"""A CUDA device that is pretended: the main memory computes, and whatever a card would refuse is refused.

Tensors keep their real values, so a whole training or prediction runs, takes the branches that it takes on a card, and
its results can be compared with those of a CPU. `pretended_cuda` is a mode in which each tensor lies on the CPU or on
`cuda:N`, by its storage. Refused are

- operations on tensors of different devices (a scalar on the CPU, an index on the CPU and `copy_` excepted);
- NumPy arrays of tensors on a card;
- random numbers for a card from a generator of the CPU;
- more bytes than the card has: `torch.OutOfMemoryError`, which frees nothing by itself.

Counted, by the function of ctseg that causes them, are waits for the card (`.item()`, `float()`, `.cpu()`, ...).

It cannot reach what happens inside an operation: kernels that a card lacks, their rounding, their speed, streams, and
the order in which a card finishes what it was given. Autocast, too, is that of the CPU with the same type. A mode
belongs to a thread, so other threads work on the CPU, as those of ctseg that read and write do.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
CPU = torch.device("cpu")
Tensor = torch.Tensor
WAITS = {
    "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "cpu", "nonzero",
    "argwhere", "masked_select", "unique", "bincount", "equal", "allclose", "is_nonzero", "__contains__",
    "__repr__", "__format__",
}  # fmt: skip
ACROSS = {
    "_has_compatible_shallow_copy_type",
    "copy_",
    "__getitem__",
    "__setitem__",
    "index_put_",
    "equal",
}
"""Operations that take tensors of two devices (an index may lie on the CPU)."""
CREATING = ("new_", "empty_", "zeros_", "ones_", "full_", "rand")
PLAIN = {"__get__", "__set__", "__delete__"}


class Card:
    """What the cards of a test hold, and how often they were waited for.

    Attributes:
        count: number of cards.
        capacity: bytes of each.
        peak: most bytes that one of them held.
        held: numbers of those that held something.
        waits: number of waits by the function of ctseg that caused them, as `file.py:function`.
        sent: bytes copied to the cards by the function that copied them.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self.count, self.capacity = count, capacity
        self.waits: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.peak = 0
        self.held: set[int] = set()
        self._held: dict[int, tuple[Any, int, int]] = {}

    def here(self) -> TorchFunctionMode:
        """A context in which another thread has the cards, too."""
        return _Mode(self)

    def device_of(self, tensor: Tensor) -> torch.device:
        found = self._held.get(tensor.untyped_storage()._cdata)
        if found is None or found[0].expired():
            return CPU
        return torch.device("cuda", found[1])

    def hold(self, tensor: Tensor, index: int) -> None:
        """Let the tensor's storage lie on a card.

        Raises:
            torch.OutOfMemoryError: it has no room.
        """
        storage = tensor.untyped_storage()
        known = self._held.get(storage._cdata)
        if known is not None and not known[0].expired():
            return
        total = self.allocated(index) + storage.nbytes()
        if total > self.capacity:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {storage.nbytes()} bytes more.")
        self._held[storage._cdata] = (StorageWeakRef(storage), index, storage.nbytes())
        self.peak = max(self.peak, total)
        self.held.add(index)

    def allocated(self, index: int = 0) -> int:
        gone = [key for key, (ref, _, _) in list(self._held.items()) if ref.expired()]
        for key in gone:
            self._held.pop(key, None)
        return sum(size for _, own, size in list(self._held.values()) if own == index)

    def wait(self) -> None:
        self.waits[_caller()] += 1


def _caller() -> str:
    """The function of ctseg that is being run, as `file.py:function`."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if ROOT / "ctseg" in path.parents:
            return f"{path.name}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


class _Mode(TorchFunctionMode):
    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in PLAIN:
            return self._property(func, name, args, kwargs)
        if name in ("to", "cuda", "cpu"):
            return self._moved(name, args, kwargs)
        if name == "pin_memory":
            return args[0]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = [self.card.device_of(tensor) for tensor in tensors]
        cards = {device for device in devices if device.type == "cuda"}
        if name in ("numpy", "__array__") and cards:
            raise TypeError(f"can't convert {devices[0]} device type tensor to numpy.")
        if name in WAITS and cards:
            self.card.wait()
        asked = kwargs.pop("device", None)
        if name == "get_device":
            return devices[0].index if cards else -1
        target = self._target(asked, tensors, devices)
        generator = kwargs.get("generator")
        if generator is not None and target.type != (own := generator.device.type):
            raise RuntimeError(f"Expected a '{target.type}' generator but found '{own}'")
        created = asked is not None and name.startswith(CREATING)  # like a tensor, elsewhere
        if name not in ACROSS and not created:
            self._check(name, tensors, devices)
        result = func(*args, **kwargs)
        if target.type == "cuda":
            index = target.index or 0
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.card.hold(leaf, index)
        return result

    def _target(
        self, asked: Any, tensors: list[Tensor], devices: list[torch.device]
    ) -> torch.device:
        """The device of the result."""
        if asked is not None:
            return _as_device(asked)
        return next((device for device in devices if device.type == "cuda"), CPU)

    def _check(self, name: str, tensors: list[Tensor], devices: list[torch.device]) -> None:
        """Raise where tensors lie on different devices, as PyTorch does."""
        if torch._C._current_graph_task_id() != -1:
            return  # in a backward pass, whose tensors this mode has not seen come into being
        real = {d for t, d in zip(tensors, devices, strict=True) if t.ndim or d.type == "cuda"}
        if len(real) > 1:
            names = " and ".join(sorted(map(str, real)))
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {names} ({name})"
            )

    def _property(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        owner = func.__self__
        if name == "__get__" and owner in (Tensor.device, Tensor.is_cuda):
            device = self.card.device_of(args[0])
            return device if owner is Tensor.device else device.type == "cuda"
        result = func(*args, **kwargs)
        if name == "__get__" and isinstance(result, Tensor):
            device = self.card.device_of(args[0])
            if device.type == "cuda":
                self.card.hold(result, device.index)
        return result

    def _moved(self, name: str, args: Any, kwargs: dict[str, Any]) -> Tensor:
        tensor, *rest = args
        before = self.card.device_of(tensor)
        target, others = before, []
        if name == "cpu":
            target = CPU
        elif name == "cuda":
            target, rest = (
                _as_device(rest[0] if rest else kwargs.pop("device", None) or "cuda"),
                rest[1:],
            )
        kwargs.pop("non_blocking", None)
        if "device" in kwargs:
            target = _as_device(kwargs.pop("device"))
        for value in rest:
            if isinstance(value, bool):  # non_blocking, copy
                continue
            if isinstance(value, (str, int, torch.device)):
                target = _as_device(value)
            elif isinstance(value, Tensor):
                target = self.card.device_of(value)
                others.append(value.dtype)
            elif value is not None:
                others.append(value)
        result: Tensor = tensor.to(*others, **kwargs) if others or kwargs else tensor
        if target == before:
            if target.type == "cuda":
                self.card.hold(result, target.index)
            return result
        if before.type == "cuda" and target == CPU and name in ("to", "cpu"):
            self.card.wait()
        if before == CPU:
            self.card.sent[_caller()] += result.untyped_storage().nbytes()
        if result.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            result = result.clone()
        if target.type == "cuda":
            self.card.hold(result, target.index)
        return result


class _Generator(torch.Generator):
    """A generator that says that it is a card's."""

    device = CPU

    def __new__(cls, device: Any = CPU) -> Any:
        own = super().__new__(cls)
        own.device = _as_device(device)
        return own

    def manual_seed(self, seed: int) -> Any:
        super().manual_seed(seed)
        return self


def _as_device(value: Any) -> torch.device:
    device = torch.device("cuda", value) if isinstance(value, int) else torch.device(value)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


@contextlib.contextmanager
def pretended_cuda(
    monkeypatch: Any, *, count: int = 1, capacity: int = 8 * GIB, bf16: bool = True
) -> Iterator[Card]:
    """Let `torch.cuda` say that there are cards, and pretend them in this thread."""
    card = Card(count, capacity)
    current = torch.device("cuda", 0)

    def index(device: Any) -> int:
        return _as_device(device if device is not None else current).index or 0

    def allocated(device: Any = None) -> int:
        return card.allocated(index(device))

    def reset(device: Any = None) -> None:
        card.peak = allocated(device)

    def synchronize(device: Any = None) -> None:
        card.wait()

    for name, call in {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda including_emulation=True: bf16,
        "mem_get_info": lambda device=None: (capacity - allocated(device), capacity),
        "memory_allocated": allocated,
        "memory_reserved": allocated,
        "max_memory_allocated": lambda device=None: card.peak,
        "reset_peak_memory_stats": reset,
        "empty_cache": lambda: None,
        "synchronize": synchronize,
        "get_device_name": lambda device=None: "pretended",
        "get_device_properties": lambda device=None: SimpleNamespace(
            name="pretended", total_memory=capacity, major=9, minor=0
        ),
        "manual_seed_all": lambda seed: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, call)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self)
    usual = torch.autocast

    def autocast(device_type: str, dtype: Any = None, enabled: bool = True, **rest: Any) -> Any:
        return usual("cpu" if device_type == "cuda" else device_type, dtype, enabled, **rest)

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch, "Generator", _Generator)
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    tf32 = [flag.allow_tf32 for flag in flags]
    try:
        with _Mode(card):
            yield card
    finally:
        for flag, value in zip(flags, tf32, strict=True):
            flag.allow_tf32 = value
