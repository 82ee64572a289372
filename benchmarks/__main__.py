"""`python -m benchmarks [NAME...]`: run the benchmarks and write what they found.

Under `ONEDNN_MAX_CPU_ISA=AVX2 DNNL_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2`, a stand-in for processors without
AVX-512, results go into a folder of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ctseg
from benchmarks import (
    augment,
    backends,
    export,
    job,
    loading,
    memory,
    metrics,
    networks,
    nnunet_import,
    page,
    precision,
    predict,
    short,
    startup,
    train,
)
from ctseg.engine.model.runtime import choose
from ctseg.files import write_text

RESULTS = Path(__file__).resolve().parent / "results"
HELD = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    "augment": augment.measure,
    "backends": backends.measure,
    "export": export.measure,
    "job": job.measure,
    "loading": loading.measure,
    "memory": memory.measure,
    "metrics": metrics.measure,
    "networks": networks.measure,
    "nnunet_import": nnunet_import.measure,
    "precision": precision.measure,
    "predict": predict.measure,
    "short": short.measure,
    "startup": startup.measure,
    "train": train.measure,
}


def machine() -> dict[str, Any]:
    """What a figure was measured on, and what oneDNN and PyTorch were held to, if they were."""
    held = {name: os.environ[name] for name in HELD if name in os.environ}
    return {
        "ctseg": ctseg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "runtime": choose().describe(),
        **({"held_to": held} if held else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHMARKS)}")
    wanted = parser.parse_args().names or list(BENCHMARKS)
    for name in wanted:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark '{name}'; there are {', '.join(BENCHMARKS)}")
    for name in wanted:
        result = {"machine": machine(), "result": BENCHMARKS[name]()}
        folder = RESULTS / page.HELD if "held_to" in result["machine"] else RESULTS
        folder.mkdir(exist_ok=True)
        write_text(folder / f"{name}.json", json.dumps(result, indent=2) + "\n")
        page.write()
        print(f"{name}: {json.dumps(result['result'])}")


if __name__ == "__main__":  # worker processes import this file too
    main()
