"""`borrowed`: lends a caller's network to a prediction and restores it afterwards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from ctseg.engine.model.runtime import Runtime


class _Loan:
    """The original state of a borrowed network, and the number of predictions that use it."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.users = 0
        self._network = network
        self._runtime: Runtime | None = None
        self._modes = [(module, module.training) for module in network.modules()]
        self._weights = [(parameter, parameter.data) for parameter in network.parameters()]

    def place(self, runtime: Runtime) -> None:
        """Place the network for this runtime; does nothing if it is placed already, as its weights may be in use."""
        if runtime != self._runtime:
            runtime.place(self._network.eval())
            self._runtime = runtime

    def give_back(self) -> None:
        """Restore training modes and memory layout; weights stay on the device to which they were moved."""
        self._network.train(self._modes[0][1])
        for module, mode in self._modes:  # the caller may have frozen some modules
            module.training = mode
        for parameter, before in self._weights:
            if parameter.device != before.device:
                before = torch.empty_like(before, device=parameter.device).copy_(parameter.data)
            parameter.data = before


_loans: dict[torch.nn.Module, _Loan] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def borrowed(network: torch.nn.Module, runtime: Runtime) -> Iterator[torch.nn.Module]:
    """Put a network in eval mode on the runtime's device, and restore its modes and memory layout afterwards.

    The network stays on the device to which it was moved. Several threads may borrow one network at the same time;
    the last of them restores it.
    """
    with _lock:
        loan = _loans.get(network) or _loans.setdefault(network, _Loan(network))
        loan.users += 1
    try:
        with _lock:
            loan.place(runtime)
        yield network
    finally:
        with _lock:
            loan.users -= 1
            if not loan.users:
                del _loans[network]
                loan.give_back()
