"""A caller's network on loan: placed for the time of a prediction, and given back as it was."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from ctseg.engine.model.runtime import Runtime


class _Loan:
    """What a network was before it was placed, and how many predictions use it."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.users = 0
        self._network = network
        self._runtime: Runtime | None = None
        self._modes = [(module, module.training) for module in network.modules()]
        self._weights = [(parameter, parameter.data) for parameter in network.parameters()]

    def place(self, runtime: Runtime) -> None:
        """Place it as the runtime has it, unless that was done: weights in use are better left alone."""
        if runtime != self._runtime:
            runtime.place(self._network.eval())
            self._runtime = runtime

    def give_back(self) -> None:
        self._network.train(self._modes[0][1])
        for module, mode in self._modes:  # parts may have been frozen
            module.training = mode
        for parameter, before in self._weights:
            if parameter.device != before.device:
                before = torch.empty_like(before, device=parameter.device).copy_(parameter.data)
            parameter.data = before


_loans: dict[torch.nn.Module, _Loan] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def borrowed(network: torch.nn.Module, runtime: Runtime) -> Iterator[torch.nn.Module]:
    """The network in eval mode, placed as the runtime has it; afterwards modes and memory layout are what they were.

    It stays on the device to which it was moved. Several threads may borrow a network at a time; the last one gives
    it back.
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
