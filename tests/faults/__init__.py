"""Faults on purpose: commands that are killed, disks that are full, folders without rights, second processes.

`python -m tests.faults --trials 200 --seed 0` runs seeded trials; `test_faults.py` a handful of them.
"""
