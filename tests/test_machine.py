"""What the machine offers, from files as Linux has them."""

from __future__ import annotations

import pytest

from ctseg import machine

MEMINFO = "MemTotal: 4096 kB\nMemFree: 10 kB\nMemAvailable: 2048 kB\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "membership")
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


def write(files, place, **texts):
    folder = files / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_memory_of_a_job_within_a_batch_system(files):
    """A process of Slurm or systemd: its limit lies at its own group, or at one above it, never at the root."""
    (files / "membership").write_text("0::/system.slice/job_7/step_0\n")
    job = {"memory__max": "1000000", "memory__current": "900000"}
    write(files, "system.slice/job_7", **job, memory__stat="inactive_file 300000\n")
    write(files, "system.slice/job_7/step_0", memory__max="max", memory__current="10")
    assert machine.memory() == (1_000_000, 400_000)
    write(files, "system.slice/job_7/step_0", memory__max="700000", memory__current="690000")
    assert machine.memory() == (700_000, 10_000)


def test_memory_under_control_groups_of_version_1(files):
    (files / "membership").write_text("9:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    unlimited = str(2**63 - 4096)
    write(files, "memory", memory__limit_in_bytes=unlimited, memory__usage_in_bytes="5")
    assert machine.memory() == (4096 * 1024, 2048 * 1024)
    write(
        files, "memory/job", memory__limit_in_bytes="1000000", memory__usage_in_bytes="900000",
        memory__stat="inactive_file 1\ntotal_inactive_file 300000\n",
    )  # fmt: skip
    assert machine.memory() == (1_000_000, 400_000)


def test_a_share_of_the_cores(files, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert machine.cores() == 64
    write(files, ".", cpu__max="max 100000")
    assert machine.cores() == 64
    write(files, ".", cpu__max="250000 100000")
    assert machine.cores() == 3
    write(files, ".", cpu__max="10000 100000")
    assert machine.cores() == 1
    (files / "cpu.max").unlink()
    write(files, "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert machine.cores() == 64
    write(files, "cpu", cpu__cfs_quota_us="400000")
    assert machine.cores() == 4


def test_odd_lines_of_membership_are_passed_over(files):
    (files / "membership").write_text("\nx\n0::/../..\n4:memory\n")
    assert machine.memory() == (4096 * 1024, 2048 * 1024)
