"""The processes that train one model together: torchrun starts them, each has a share of every batch.

Gradients are averaged after the backward pass in one message, parameter after parameter. `DistributedDataParallel`
would send them while the backward pass still runs, but it regroups them after its first step: sums over three and more
processes round differently then, and a resumed run would not equal one left alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ctseg.engine.prediction.multiprocess.team import Team
from ctseg.errors import BadInput, RunFailed
from ctseg.losses.shared_batch import shared_batch


class Processes:
    """One process, or this one of several.

    Args:
        team: the processes and their messages; None for one alone.
        device: on which this one computes.
    """

    def __init__(self, team: Team | None = None, device: torch.device | None = None) -> None:
        self.team, self.device = team, device or torch.device("cpu")
        self.rank, self.size = (0, 1) if team is None else (team.rank, team.size)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """How many samples of a batch are this process's own.

        Raises:
            BadInput: the batch cannot be shared out evenly.
        """
        if batch_size % self.size:
            near = -(-batch_size // self.size) * self.size
            raise BadInput(
                f"A batch of {batch_size} patches cannot be shared by {self.size} processes.",
                hint=f"The batch size counts the patches of all processes: --batch-size {near}, for example.",
            )
        return batch_size // self.size

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)  # on the CPU: a GPU need not be waited for
        self._together(lambda: dist.all_reduce(tensor, op=dist.ReduceOp.MAX))
        return [int(value) for value in tensor.tolist()]

    def from_first(self, *values: float) -> list[float]:
        """The first process's values."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        self._together(lambda: dist.broadcast(tensor, 0))
        return [float(value) for value in tensor.tolist()]

    def take_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give these tensors the first process's values."""
        if self.size > 1:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                self._together(lambda whole=whole: dist.broadcast(whole, 0))  # type: ignore[misc]
                tensor.detach().copy_(whole)

    def average(self, parameters: Iterable[torch.Tensor], value: torch.Tensor) -> torch.Tensor:
        """Average the gradients over all processes, and return the mean of a value."""
        if self.size == 1:
            return value
        gradients = [p.grad for p in parameters if p.grad is not None]
        parts = [value.detach().reshape(1), *(gradient.reshape(-1) for gradient in gradients)]
        flat = torch.cat([part.float() for part in parts])
        self._together(lambda: dist.all_reduce(flat))
        flat /= self.size
        averaged = torch.split(flat, [part.numel() for part in parts])
        for gradient, mean in zip(gradients, averaged[1:], strict=True):
            gradient.copy_(mean.view_as(gradient))
        return flat[0]

    def shared_batch(self) -> contextlib.AbstractContextManager[None]:
        """A context in which losses see the samples of all processes."""
        return shared_batch(self.size)

    def own(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's share of the items."""
        return items[self.rank :: self.size]

    def gathered(self, name: str, value: Any, watch: Callable[[], None]) -> list[Any]:
        """What each process gave under a name, as JSON; `watch` is called while it waits, and may raise."""
        if self.team is None:
            return [value]
        self.team.put(f"{name}/{self.rank}", value)
        return [self.team.wait(f"{name}/{rank}", watch=watch) for rank in range(self.size)]

    def asked(self, number: int | None) -> int | None:
        """The signal by which any process was asked to stop; for work that the processes do apart."""
        if self.team is None:
            return number
        if number is not None:
            self.team.put_first("asked", number)
        found: int | None = self.team.peek("asked")
        return found

    def synchronised(self, net: torch.nn.Module) -> torch.nn.Module:
        """The network with batch normalisation over the samples of all processes, where its device can."""
        if self.size == 1 or self.device.type != "cuda":
            return net
        convert: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm
        converted: torch.nn.Module = convert(net)
        return converted

    def _together(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise RunFailed(
                f"Process {self.rank} of {self.size} has lost the others: {error}",
                hint="See their own messages; resume the run with the same command and --resume.",
            ) from error


def session() -> str | None:
    """What tells one call of torchrun from another, as its processes see it, also after a restart; None without it."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    return name if name not in ("", "none") else f"{socket.gethostname()} {os.getppid()}"


def restarted(begun_by: Any) -> bool:
    """Whether torchrun started the processes again, after one of them had failed, and had begun a run before.

    Args:
        begun_by: the `session` that began the run.
    """
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")
    return again and begun_by is not None and begun_by == session()


@contextlib.contextmanager
def joined(team: Team | None, device: torch.device) -> Iterator[Processes]:
    """The processes, connected for computation: by NCCL on GPUs, by Gloo on CPUs.

    Raises:
        RunFailed: the device has no such connection.
    """
    if team is None:
        yield Processes()
        return
    backends = {"cuda": ("gloo", "nccl"), "cpu": ("gloo",)}.get(device.type, ())
    if not backends or not all(map(dist.is_backend_available, backends)):
        raise RunFailed(
            f"Several processes cannot train together on {device}: PyTorch cannot connect them.",
            hint="Start one process, without torchrun.",
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = dist.distributed_c10d.PrefixStore("training", team.store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=team.rank,
        world_size=team.size,
    )
    yield Processes(team, device)
    dist.destroy_process_group()  # after an error its messages may never arrive
