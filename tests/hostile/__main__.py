"""Read damaged files and say what came of it: `python -m tests.hostile --executions 1000`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def main() -> int:
    """Returns 1 where something else than an answer or a `CtsegError` came out, or too slowly, or too large."""
    from tests.hostile.targets import TARGETS

    given = _arguments(list(TARGETS))
    if given.jobs > 1:
        return _finish(_side_by_side(given.target or list(TARGETS), given), given)
    chosen = [TARGETS[name] for name in given.target or TARGETS]
    base = tempfile.TemporaryDirectory(prefix="ctseg-hostile-")
    documents = []
    with base as folder:
        # what reading caches and unpacks stays in the folder
        os.environ |= {
            "CTSEG_CACHE": f"{folder}/cache", "CTSEG_ZOO": f"{folder}/zoo", "TMPDIR": f"{folder}/scratch",
            "CTSEG_CONFIG": f"{folder}/config",
        }  # fmt: skip
        Path(folder, "scratch").mkdir()
        tempfile.tempdir = None
        for target in chosen:
            missing = [name for name in target.needs if importlib.util.find_spec(name) is None]
            if missing:
                print(f"{target.name}: left out, since {missing[0]} is not installed", flush=True)
                continue
            documents.append(_run(target, Path(folder), given))
    return _finish(documents, given)


def _side_by_side(names: Sequence[str], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Each target in a process of its own, several at a time."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:

        def run(name: str) -> list[dict[str, Any]]:
            counts = Path(folder, f"{name}.json")
            command = [
                sys.executable, "-m", "tests.hostile", "--target", name, "--executions", str(given.executions),
                "--seed", str(given.seed), "--reproducers", str(given.reproducers), "--json", str(counts),
            ]  # fmt: skip
            ended = subprocess.run(command, check=False, capture_output=True, text=True)
            if not counts.exists():
                raise RuntimeError(f"{name}: {ended.stdout}{ended.stderr}")
            print("\n".join(ended.stdout.splitlines()[:-1]), flush=True)
            return list(json.loads(counts.read_text()))

        return [document for documents in pool.map(run, names) for document in documents]


def _finish(documents: list[dict[str, Any]], given: argparse.Namespace) -> int:
    if given.json:
        given.json.write_text(json.dumps(documents, indent=2) + "\n")
    failed = sum(document["failed"] for document in documents)
    total = sum(document["executions"] for document in documents)
    print(f"{total} executions of {len(documents)} targets, {failed} failures")
    return 1 if failed else 0


def _arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--executions", type=int, default=1000, help="of each target")
    parser.add_argument("--target", action="append", choices=names, help="default: all")
    parser.add_argument("--jobs", type=int, default=1, help="targets that run side by side")
    parser.add_argument("--seed", type=int, default=0, help="of the randomness")
    parser.add_argument("--only", type=int, help="number of one execution, to repeat it")
    parser.add_argument(
        "--reproducers", type=Path, default=Path(tempfile.gettempdir()) / "ctseg-hostile-failures",
        help="folder for the files that failed",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="file for the counts")
    return parser.parse_args()


def _run(target: Any, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    from tests.hostile.campaign import Campaign, keep

    begun = time.monotonic()
    campaign = Campaign(target, folder / target.name, given.seed)
    result = (
        campaign.run(1, given.only) if given.only is not None else campaign.run(given.executions)
    )
    seconds = time.monotonic() - begun
    counts = ", ".join(f"{name} {number}" for name, number in result.outcomes.most_common())
    print(
        f"{target.name}: {result.executions} executions in {seconds:.0f} s ({counts}); "
        f"slowest {result.slowest:.2f} s, largest {result.largest / 2**20:.0f} MiB; {len(result.failures)} failures",
        flush=True,
    )
    if result.failures:
        place = given.reproducers / target.name
        again = f"python -m tests.hostile --target {target.name} --seed {given.seed}"
        keep(campaign, result.failures, place, again)
        for number, why in result.failures[:20]:
            print(f"    {number}: {why.strip().splitlines()[-1][:300]}")
        print(f"    files and causes: {place}", flush=True)
    return {
        "target": target.name, "seed": given.seed, "executions": result.executions, "outcomes": result.outcomes,
        "slowest_s": round(result.slowest, 3), "largest_bytes": result.largest, "seconds": round(seconds, 1),
        "failed": len(result.failures),
    }  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork loses the threads of its parent
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.exit(main())
