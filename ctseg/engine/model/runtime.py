"""Where and how networks run: device, precision, memory layout."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch

from ctseg.errors import BadInput
from ctseg.nets.cpu import use_cpu_kernels
from ctseg.nets.memory_layout import CHANNELS_LAST

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Backend = Literal["auto", "torch", "openvino"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """One answer for the whole run.

    Attributes:
        device: where tensors live.
        precision: of the network's multiplications; sums and losses are fp32 always. `int8` is computed by OpenVINO;
            what PyTorch computes is fp32 then.
        channels_last: whether activations lie channels-last in memory.
        reason: why these were chosen, for the log.
        exact: whether a CPU computes as PyTorch does, without the kernels of `ctseg.nets.cpu`; half precision always
            uses them.
        backend: what computes the networks of a prediction; `auto` for what is faster (see
            `ctseg.engine.inference.backends`).
    """

    device: torch.device
    precision: Precision
    channels_last: bool
    reason: str
    exact: bool = False
    backend: Backend = "torch"

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """A context in which the network computes in the chosen precision."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.kernels())
            if self.precision in _TYPES:
                stack.enter_context(torch.autocast(self.device.type, _TYPES[self.precision]))
            yield

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """A context for the backward pass, in which layers that are checkpointed compute once more."""
        if self.device.type == "cpu" and not (self.exact and self.precision not in _TYPES):
            return use_cpu_kernels()
        return contextlib.nullcontext()

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module on the device and in the memory layout."""
        module = module.to(self.device)
        if self.channels_last:
            for parameter in module.parameters():  # 2D kernels have a layout of their own
                layout = CHANNELS_LAST.get(parameter.ndim)
                if layout is not None:
                    parameter.data = parameter.data.to(memory_format=layout)
        return module

    def tensor(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """A batch on the device and in the memory layout."""
        x_bczyx = x_bczyx.to(self.device, non_blocking=True)
        if self.channels_last and x_bczyx.ndim == 5:
            return x_bczyx.contiguous(memory_format=torch.channels_last_3d)
        return x_bczyx

    def describe(self) -> str:
        layout = "channels-last" if self.channels_last else "contiguous"
        by = ", openvino" if self.backend == "openvino" else ""
        return f"{self.device}, {self.precision}, {layout}{by} ({self.reason})"


def choose(device: str = "auto", precision: str = "auto", backend: str = "torch") -> Runtime:
    """Choose device and precision by what the device offers; `measure_runtime` tries it on a network.

    On a CPU bf16 where the processor has AVX512-BF16 or AMX, else fp32; on CUDA bf16, or fp16 where bf16 is only
    emulated; on MPS fp32. Activations lie channels-last, except on MPS. `fp32` that is asked for on a CPU computes as
    PyTorch does, contiguously; where it is chosen, the kernels of `ctseg.nets.cpu` are used. `int8` is never chosen.

    Args:
        backend: `auto` is PyTorch unless OpenVINO is installed and may compute this precision on this device, and
            always PyTorch if `fp32` is asked for or several processes share the work. int8 is always OpenVINO's.

    Raises:
        BadInput: the device does not exist here, or OpenVINO is asked for and cannot be used.
    """
    chosen = _device(device)
    if chosen.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        auto, why = ("bf16", "bf16 is native") if native else ("fp16", "bf16 is emulated here")
    elif chosen.type == "cpu":
        auto, why = ("bf16", "the processor multiplies bf16") if cpu_bf16() else ("fp32", "no bf16")
    else:
        auto, why = "fp32", f"{chosen.type} runs fp32"
    if precision not in ("auto", *get_args(Precision)):
        raise BadInput(f"'{precision}' is no precision.", hint="auto, fp32, bf16, fp16 or int8")
    final = cast(Precision, auto if precision == "auto" else precision)
    reason = why if precision == "auto" else "as asked"
    exact = precision in ("fp32", "int8")
    layout = chosen.type == "cuda" or (chosen.type == "cpu" and not exact)
    return Runtime(
        chosen, final, layout, reason, exact, _backend(backend, chosen, final, exact=exact)
    )


def has_openvino() -> bool:
    """Whether the package of the extra `openvino` is installed."""
    return importlib.util.find_spec("openvino") is not None


def _backend(name: str, device: torch.device, precision: Precision, *, exact: bool) -> Backend:
    """The backend as asked for; `auto` becomes `torch` where nothing else is possible."""
    if name not in get_args(Backend):
        raise BadInput(f"'{name}' is no backend.", hint=" or ".join(get_args(Backend)))
    possible = device.type == "cpu" and precision != "fp16"
    if precision == "int8" and (name == "torch" or not possible):
        raise BadInput(
            f"int8 is computed by OpenVINO on the CPU, not by PyTorch on {device}.",
            hint="Leave out --backend torch and use --device cpu, or use --precision auto.",
        )
    if name == "openvino" or precision == "int8":
        if not possible:
            raise BadInput(
                f"OpenVINO computes fp32, bf16 and int8 on the CPU, not {precision} on {device}.",
                hint="Use --backend auto, or --device cpu and --precision auto.",
            )
        if not has_openvino():
            raise BadInput(
                "The package openvino is not installed.",
                hint="Install it: pip install 'ctseg[openvino]'",
            )
        return "openvino"
    alone = int(os.environ.get("WORLD_SIZE") or 1) < 2
    return (
        "auto"
        if name == "auto" and possible and alone and not exact and has_openvino()
        else "torch"
    )


def _device(name: str) -> torch.device:
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device("cuda" if name == "auto" else name)
    except RuntimeError as error:
        raise BadInput(f"'{name}' is no device.", hint="cpu, cuda, cuda:1 or mps") from error
    # torchrun's: each of its processes has a device of its own
    local = os.environ.get("LOCAL_RANK")
    if device.type == "cuda" and ":" not in name and (local or name == "auto"):
        device = torch.device("cuda", int(local or 0))
    missing = (device.type == "cuda" and not torch.cuda.is_available()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or device.type not in ("cpu", "cuda", "mps"):
        raise BadInput(
            f"The device '{name}' is not available here.", hint="See what is: ctseg doctor"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(
            f"There are {torch.cuda.device_count()} CUDA devices; '{device}' is none.",
            hint="Start no more processes than there are devices: torchrun --nproc-per-node",
        )
    return device


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a CPU, have every operation add up in the same order each time, as an exact resume needs.

    Threads add to a table that is indexed (a transformer's relative positions) in any order otherwise. What does not
    index costs nothing. On other devices nothing is changed.
    """
    if device.type != "cpu":
        yield
        return
    fills = cast(Any, torch.utils.deterministic)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        fills.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    fills.fill_uninitialized_memory = False  # nothing reads it, and it takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        fills.fill_uninitialized_memory = before[2]


def processes_here() -> int:
    """How many processes torchrun started on this machine; one without it."""
    return max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def cpu_bf16() -> bool:
    """Whether convolutions multiply bf16 in hardware: the processor has AVX512-BF16 or AMX, and oneDNN may use it.

    `ONEDNN_MAX_CPU_ISA` holds oneDNN, which computes PyTorch's convolutions, to older instructions.
    """
    most = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    if not re.search("BF16|FP16|AMX|AVX10|ALL|DEFAULT", most.upper()):
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
