"""What the machine offers, from files as Linux has them."""

from __future__ import annotations

import pytest

from ctseg import machine

MEMINFO = "MemTotal: 4096 kB\nMemFree: 10 kB\nMemAvailable: 2048 kB\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text(MEMINFO)
    return tmp_path


def test_memory_of_a_machine_and_of_a_container(files):
    assert machine.memory() == (4096 * 1024, 2048 * 1024)
    for name, text in (("max", "1000000"), ("current", "900000"), ("stat", "inactive_file 300000")):
        (files / f"memory.{name}").write_text(text)
    assert machine.memory() == (1_000_000, 400_000)  # the kernel gives caches of files back
    (files / "memory.max").write_text("max")
    assert machine.free_memory() == 2048 * 1024


def test_a_system_that_does_not_tell(files):
    (files / "meminfo").write_text("MemTotal: 5 kB\n")
    assert machine.memory() is None
    assert machine.free_memory() == machine.UNLIMITED
    assert machine.cores() >= 1
