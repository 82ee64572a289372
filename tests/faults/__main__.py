"""Run trials and say what came of them: `python -m tests.faults --trials 200 --seed 0`."""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Returns 1 where a trial found a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=200, help="kills; other faults come on top")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument(
        "--only", default="", help="commands by the beginnings of their names, with commas"
    )
    parser.add_argument("--kind", default="", help="kill, disk, rights or second alone")
    parser.add_argument(
        "--sabotage", action="store_true", help="nothing is put right in zoos: trials must fail"
    )
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork loses the threads of its parent
    os.environ.setdefault("MPLBACKEND", "Agg")
    from tests.faults.preload import preload
    from tests.faults.trials import Trials, plan
    from tests.faults.workplace import make

    preload()
    if given.sabotage:
        from ctseg.zoo import store

        store._recover = lambda zoo: None
    begun = time.monotonic()
    count: collections.Counter[str] = collections.Counter()
    failed = []
    with tempfile.TemporaryDirectory(prefix="ctseg-faults-") as folder:
        trials = Trials(make(Path(folder) / "template"), Path(folder))
        names = tuple(filter(None, given.only.split(",")))
        planned = [p for p in plan(given.trials, given.seed, names) if given.kind in ("", p[1])]
        for number, (scenario, kind, seed) in enumerate(planned, 1):
            outcome = trials.run(scenario, kind, seed)
            count[f"{kind} {'met' if outcome.met else 'missed'}"] += 1
            verdict = "ok" if not outcome.problems else "FAILED"
            print(
                f"{number}/{len(planned)} {scenario.name}, seed {seed}: {outcome.fault}: {verdict}",
                flush=True,
            )
            if outcome.problems:
                failed.append(outcome)
                print(*(f"    {problem}" for problem in outcome.problems), sep="\n", flush=True)
    told = ", ".join(f"{name} {number}" for name, number in sorted(count.items()))
    print(
        f"{sum(count.values())} trials in {time.monotonic() - begun:.0f} s: {told}; {len(failed)} failed"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
