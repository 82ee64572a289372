"""PyTorch's threads follow the cores that the process may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ctseg.engine.model import threads


@pytest.fixture
def cores(monkeypatch):
    """The cores of the process, to be changed by a test, with three threads at the start."""
    before, allowed = torch.get_num_threads(), set(range(4))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    monkeypatch.setattr(threads._Seen, "cores", 4)
    monkeypatch.setattr(threads, "_seen", threads._Seen())
    torch.set_num_threads(3)
    yield allowed
    torch.set_num_threads(before)


def test_threads_go_with_the_cores_and_come_back(cores):
    assert threads.follow_cores() is None  # three threads on four cores
    cores.remove(3)
    assert threads.follow_cores() is None and torch.get_num_threads() == 3
    cores.remove(2)
    assert threads.follow_cores() == torch.get_num_threads() == 2
    assert threads.follow_cores() is None
    cores.remove(1)
    assert threads.follow_cores() == torch.get_num_threads() == 1
    cores.update(range(2))
    assert threads.follow_cores() == torch.get_num_threads() == 2
    cores.update(range(8))
    assert threads.follow_cores() == torch.get_num_threads() == 3
    cores.update(range(16))
    assert threads.follow_cores() is None


def test_cores_lost_before_the_first_step_are_noticed(cores):
    cores.difference_update({1, 2, 3})  # while scans were prepared
    assert threads.follow_cores() == torch.get_num_threads() == 1
    cores.update(range(4))
    assert threads.follow_cores() == torch.get_num_threads() == 3


def test_more_threads_than_cores_from_the_start_stay(cores, monkeypatch):
    monkeypatch.setattr(threads._Seen, "cores", 1)
    cores.difference_update({1, 2, 3})
    assert threads.follow_cores() is None and torch.get_num_threads() == 3
    cores.update({1})
    assert threads.follow_cores() is None and torch.get_num_threads() == 3


def test_a_system_without_affinity_changes_nothing(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(threads._Seen, "cores", threads._cores())
    before = torch.get_num_threads()
    assert threads.follow_cores() is None and torch.get_num_threads() == before


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs 2 cores"
)
def test_a_prediction_notices_that_it_lost_a_core():
    """In a process of its own, whose threads lose a core after the first tile."""
    text = """
import os, torch
from ctseg import predict_tiles
a, b = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, {a, b})
torch.set_num_threads(2)
class Net(torch.nn.Conv3d):
    seen = []
    def forward(self, x):
        self.seen.append(torch.get_num_threads())
        os.sched_setaffinity(0, {a})
        return super().forward(x)
predict_tiles(Net(1, 2, 1), torch.zeros(1, 16, 16, 16), tile_zyx=(8, 8, 8), precision="fp32")
print(Net.seen[0], Net.seen[-1])
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "1"], done.stderr
