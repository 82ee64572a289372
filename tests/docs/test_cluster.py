"""The batch script of the how-to for clusters, under a stand-in for Slurm: stopped by SIGUSR1, requeued, resumed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctseg.engine.training.checkpoint import load

ROOT = Path(__file__).resolve().parents[2]

SBATCH = r"""#!/bin/bash
# Runs a task of an array; sends SIGUSR1 to the script when the file "now" is there; runs it again if it was requeued.
script=$1
grep -q '^#SBATCH --signal=B:USR1@' "$script" || exit 9
grep -q '^#SBATCH --requeue' "$script" || exit 9
export SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=1
bash "$script" & job=$!
while kill -0 $job 2>/dev/null && [ ! -e now ]; do sleep 0.05; done
kill -USR1 $job
wait $job; echo "first $?"
if [ -e requeued ]; then
    bash "$script"; echo "second $?"
fi
"""
SETTINGS = (
    "train.steps=500", "train.steps_per_epoch=100", "train.log_every=1", "train.batch_size=2",
    "train.patch_zyx=[8, 16, 16]", "train.device=cpu", "train.precision=fp32", "model.options.features=[4, 8]",
    "first_stage.use=off",
)  # fmt: skip
SCONTROL = """#!/bin/bash
[ "$1" = requeue ] && [ "$2" = 7_1 ] && touch requeued
"""


def page() -> str:
    return (ROOT / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")


def script() -> str:
    found = re.search(r'```bash title="train.sbatch"\n(.*?)```', page(), re.DOTALL)
    assert found is not None
    return found[1]


def preparation() -> list[str]:
    """The commands that plan and prepare before the jobs start."""
    return re.findall(r"^ctseg (?:plan|data prepare) .*$", page(), re.MULTILINE)


def test_all_folds_train_by_one_plan() -> None:
    """If each were planned by itself, they could not be published as one ensemble."""
    plan, prepare = preparation()
    file = plan.rpartition(" -o ")[2]
    assert prepare == f"ctseg data prepare {file}"
    assert f'ctseg train {file} --fold "$SLURM_ARRAY_TASK_ID"' in script()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize("launcher", ["ctseg train", "torchrun --nproc-per-node 2 -m ctseg train"])
def test_the_batch_script_is_stopped_requeued_and_resumed(mini_set, tmp_path, launcher):
    settings = " ".join(f"--set '{setting}'" for setting in SETTINGS)
    before = " && ".join(preparation()).replace("/data/Task09_Spleen", str(mini_set))
    before = before.replace("--set train.epochs=400", settings)
    assert str(mini_set) in before and settings in before
    content = script().replace("ctseg train", launcher)
    assert content.count(launcher) == 2
    (tmp_path / "train.sbatch").write_text(content)
    programs = {
        "sbatch": SBATCH,
        "scontrol": SCONTROL,
        "ctseg": f'#!/bin/bash\nexec "{sys.executable}" -m ctseg "$@"\n',
        "torchrun": f'#!/bin/bash\nexec "{sys.executable}" -m torch.distributed.run --standalone "$@"\n',
    }
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    planned = subprocess.run(
        ["bash", "-c", before], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=240
    )  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    process = subprocess.Popen(
        ["sbatch", "train.sbatch"], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    run = tmp_path / "runs" / "spleen-fold1"
    deadline = time.monotonic() + 240
    while not (run / "log.jsonl").is_file() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (tmp_path / "now").touch()
    output, errors = process.communicate(timeout=600)
    code = 143 if launcher == "ctseg train" else 1
    assert f"first {code}" in output, errors
    assert "second 0" in output, errors
    assert "Ended by SIGTERM" in errors
    resumed = re.search(r"Resuming at step (\d+) of 500", errors)
    assert resumed is not None and 0 < int(resumed[1]) < 500
    assert load(run / "last")[0].step == 500
    steps = [json.loads(line).get("step") for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert (run / "config.toml").read_text().count("fold = 1") == 1
