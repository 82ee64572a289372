"""Damaged files on purpose: each ends in an answer or a `CtsegError`, quickly, in little memory.

`python -m tests.hostile --executions 1000` reads damaged copies of every kind of file; `test_hostile.py` a few of each.
"""
