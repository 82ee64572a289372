"""`Limits`: how much one request may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much one request may take, and how many may wait.

    Attributes:
        size: largest upload in bytes, and largest scan in bytes of voxels after unpacking.
        waiting: requests that may wait for the one that is predicted; uploads count from their first byte.
        seconds: longest time to receive a scan, again to predict it, and again to send its result.
        idle_seconds: longest time without a byte from or to the client.
        memory: bytes that prediction may use on its device; what is free by default.
    """

    size: int = 4 * 10**9
    waiting: int = 16
    seconds: float = 600.0
    idle_seconds: float = 30.0
    memory: int | None = None
