"""Random numbers keyed by (seed, step, index of the sample in the global batch).

What is drawn depends on nothing else: not on workers, processes or on what was drawn before, so a resumed run
needs no replay.
"""

from __future__ import annotations

import numpy as np

SAMPLE, AUGMENT, NETWORK, INITIAL = range(4)
"""What the numbers are for; each purpose has a stream of its own."""


def generator(seed: int, step: int, index: int, purpose: int) -> np.random.Generator:
    """A generator of its own for one sample (Philox, Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, purpose, index, step]))


def seed_for(seed: int, step: int, index: int, purpose: int) -> int:
    """A 63-bit seed for torch's generators, under the same key."""
    return int(generator(seed, step, index, purpose).integers(2**63 - 1))
