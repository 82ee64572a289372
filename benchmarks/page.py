"""`python -m benchmarks.page`: the page of figures, docs/explanation/speed.md, from benchmarks/results."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
PAGE = ROOT.parent / "docs" / "explanation" / "speed.md"
PEERS = {
    "ctseg": "ctseg", "nnunet": "nnU-Net", "monai": "MONAI", "torchio": "TorchIO",
    "pytorch3dunet": "pytorch-3dunet",
}  # fmt: skip
HEAD = """\
<!-- Made by `python -m benchmarks.page` from benchmarks/results: change it there. -->
# Speed and memory

What was measured, beside the tools that people use today. Each table names the command that made it; the peers ran in
the same process or the same minutes as ctseg, on the same cores, because machines differ and so does a machine from
one hour to the next: compare ratios. *As it comes* is a peer as its own documentation uses it; *by hand* is the peer
put under bfloat16 and channels-last by somebody who knows that this helps, which ctseg does by itself.

No GPU has been measured yet.
"""
Result = dict[str, Any]


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, section in SECTIONS.items():
        stored = _read(name)
        text = textwrap.fill(" ".join(section.text.split()), 120)
        parts.append(
            f"## {section.title}\n\n`python -m benchmarks {name}`{_where(stored)}\n\n{text}\n\n"
            + section.table(stored["result"])
        )
    return "\n".join(parts)


def write() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def _read(name: str) -> Result:
    found: Result = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _where(stored: Result) -> str:
    """The machine in words."""
    machine = stored["machine"]
    names = {d["name"] for d in stored["result"].get("devices", {}).values()}
    told = [*sorted(names), f"{machine['threads']} threads", f"torch {machine['torch']}"]
    runtime = str(machine["runtime"]).split(" (")[0]
    return f": {', '.join(told)}; ctseg chose {runtime}."


# ---------------------------------------------------------------- the tables


def _predict(result: Result) -> str:
    rows: dict[str, list[str]] = {}
    columns = [""]
    for index, (side, found) in enumerate(result["volumes"].items(), start=1):
        tile = found["setting"]["tile_zyx"][0]
        columns += [f"{side}^3, {found['tiles']} tiles of {tile}^3", "of ctseg's time"]
        own = found["runs"]["ctseg logits"]["seconds"]
        alone = found["network_alone"]["seconds"]
        cells = {"the network alone, all tiles": alone}
        cells |= {_run_name(name): run["seconds"] for name, run in found["runs"].items()}
        for name, seconds in cells.items():
            row = rows.setdefault(name, [name] + [""] * (2 * (index - 1)))
            row += [_seconds(seconds), f"{seconds / own:.2f} x"]
    full = [row + [""] * (len(columns) - len(row)) for row in rows.values()]
    return _table(columns, full)


def _run_name(name: str) -> str:
    first, _, rest = name.partition(" ")
    return f"{PEERS.get(first, first)} {rest}".strip()


def _job(result: Result) -> str:
    names = {"3": "its default", "1": "one process", "0": "its sequential mode"}
    rows = [("`ctseg predict`", _seconds(result["ctseg"]), "1.00 x")]
    rows += [
        (
            f"`nnUNetv2_predict --disable_tta`, {names[count]}",
            _seconds(seconds),
            f"{seconds / result['ctseg']:.2f} x",
        )
        for count, seconds in result["nnunet_by_processes"].items()
    ]
    return _table(("", "seconds", "of ctseg's time"), rows)


def _export(result: Result) -> str:
    rows = [
        (
            count,
            _seconds(found["ctseg"]["seconds"]), f"{found['ctseg']['gib']:.3f}",
            _seconds(found["nnunet"]["seconds"]), f"{found['nnunet']['gib']:.2f}",
            f"{found['equal_voxels']:.2%}",
        )
        for count, found in result["slices"].items()
    ]  # fmt: skip
    columns = (
        "slices", "ctseg, s", "ctseg, GiB", "nnU-Net, s", "nnU-Net, GiB", "equal labels"
    )  # fmt: skip
    return _table(columns, rows)


def _memory(result: Result) -> str:
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for run in result["runs"]:
        z, y, x = run["shape_zyx"]
        told = f"{run['anonymous_gib']:.2f}" if "anonymous_gib" in run else "exceeded"
        rows.setdefault((f"{z} x {y} x {x}", run["classes"]), {})[run["who"]] = told
    names = ("ctseg", "nnunet", "monai")
    body = [
        (shape, str(classes), *(found.get(n, "") for n in names))
        for (shape, classes), found in rows.items()
    ]
    table = _table(("voxels (z, y, x)", "classes", *(f"{PEERS[n]}, GiB" for n in names)), body)
    return f"{table}\nAllowed were {result['limit_gib']:g} GiB.\n"


def _precision(result: Result) -> str:
    rows = [
        (
            f"`{name}`", str(found["scans"]), f"{found['equal_voxels']:.3%}",
            ", ".join(f"{dice:.4f}" for dice in found["dice"].values()),
            f"{min(found['lowest_dice_of_a_scan'].values()):.4f}",
        )
        for name, found in result.items() if isinstance(found, dict)
    ]  # fmt: skip
    columns = ("model", "scans", "equal voxels", "Dice of each label", "lowest of a scan")
    return _table(columns, rows)


def _networks(result: Result) -> str:
    parts = []
    for device in result["devices"].values():
        for name, found in device["plans"].items():
            plan, rows = found["plan"], []
            for network, modes in found["networks"].items():
                for mode, told in (
                    ("default", "as it comes"),
                    ("fp32", "float32"),
                    ("by_hand", "by hand"),
                ):
                    same = mode != "default" and modes[mode]["way"] == modes["default"]["way"]
                    if same or (network == "ctseg" and mode == "by_hand"):
                        continue  # what it does by itself
                    rows.append((f"{PEERS[network]}, {told}", *_cells(modes[mode], found)))
            shape = " x ".join(map(str, plan["patch_zyx"]))
            parts.append(
                f"`{name}`: {plan['batch']} patches of {shape}, features {plan['features']}.\n\n"
                + _table(("", "forward, s", "", "step, s", "", "step, MiB"), rows)
            )
    return "\n".join(parts)


def _cells(mode: Result, found: Result) -> list[str]:
    own = found["networks"]["ctseg"]["default"]
    out = []
    for what in ("forward", "step"):
        seconds = mode[what]["seconds"]
        out += [f"{seconds:.3f}", f"{seconds / own[what]['seconds']:.2f} x"]
    return [*out, f"{mode['step']['mib']:.0f}"]


def _loading(result: Result) -> str:
    rows = []
    for name in ("hippocampus", "sts_ct"):
        found = result[name]
        for who in ("ctseg", "monai", "torchio"):
            equal = {way: n for way, n in found[who].items() if not way.startswith("less work")}
            best = max(equal, key=lambda way: equal[way])
            rows.append((name, f"{PEERS[who]}, {best}", f"{equal[best]:.0f}"))
    return _table(("data set", "the best way of", "patches a second"), rows)


def _augment(result: Result) -> str:
    rows = []
    for name in ("128^3", "hippocampus"):
        found = result[name]
        peers = {
            "batchgeneratorsv2": found["batchgeneratorsv2"],
            "batchgeneratorsv2, labels by the nearest voxel": found[
                "batchgeneratorsv2, nearest labels"
            ],
        }
        rows.append((name, "ctseg", f"{found['ctseg']:.1f}", "1.00 x"))
        for who, ways in peers.items():
            best = min(ways, key=lambda way: ways[way])
            rows.append(
                (
                    name,
                    f"{who}, {best}",
                    f"{ways[best]:.1f}",
                    f"{ways[best] / found['ctseg']:.2f} x",
                )
            )
    return _table(("patch", "", "ms a batch of 2", "of ctseg's time"), rows)


def _metrics(result: Result) -> str:
    names = {
        "ctseg": "ctseg", "surface_distance": "surface-distance",
        "surface_distance_in_box": "surface-distance in boxes around the organs",
        "monai_in_box": "MONAI in boxes", "monai_estimated": "MONAI on whole scans, from two organs",
    }  # fmt: skip
    own = result["seconds"]["ctseg"]
    rows = [
        (names[who], _seconds(seconds), f"{seconds / own:.1f} x")
        for who, seconds in result["seconds"].items()
    ]
    return _table(("", "seconds", "of ctseg's time"), rows)


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    listed = [list(columns)]
    listed += [["---"] * len(listed[0])]
    listed += [list(row) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in listed) + "\n"


@dataclass(frozen=True)
class Section:
    """A part of the page: its title, what was done, and the table of a result."""

    title: str
    text: str
    table: Callable[[Result], str]


SECTIONS = {
    "predict": Section(
        "A scan through the network",
        """One U-Net of one convolution a level, 3 classes, overlap 0.5, Gaussian blending, logits out. nnU-Net's
        predictor, MONAI's `SlidingWindowInferer`, TorchIO's `GridAggregator` and pytorch-3dunet's predictor run it as
        nnU-Net builds it, ctseg as `unet3d` with the same weights. *With our network* is the peer's window around
        `unet3d`: what is faster is mostly the network.""",
        _predict,
    ),
    "job": Section(
        "A folder, from start to last file",
        "44 scans of the hippocampus with a model of the same weights, start of the process included.",
        _job,
    ),
    "export": Section(
        "From the network's grid to the scan's",
        "117 classes from 1.5 mm to slices of 512 x 512; memory beside the logits.",
        _export,
    ),
    "memory": Section(
        "Memory from file to file",
        """Peak over the process after its imports, HDF5 to HDF5, a network of next to nothing, tiles of
        64 x 128 x 128.""",
        _memory,
    ),
    "precision": Section(
        "bfloat16 against float32",
        "Label maps of whole runs on validation scans, compared with each other.",
        _precision,
    ),
    "networks": Section(
        "Networks",
        """`unet3d`, nnU-Net's `PlainConvUNet` and MONAI's `DynUNet` of the same plan: a forward pass, and a training
        step of forward, loss, backward and update; medians, and peaks over the weights. Small patches stay in the
        processor's caches, where float32 loses least.""",
        _networks,
    ),
    "loading": Section(
        "Batches",
        """Patches drawn from prepared scans in memory, half of them on a label, with the same augmentation: an affine
        transform for 36 of 100, mirroring, noise, blur, gamma, low resolution.""",
        _loading,
    ),
    "augment": Section(
        "Augmentation",
        "nnU-Net's default set. The peer interpolates label maps by default, ctseg takes the nearest voxel.",
        _augment,
    ),
    "metrics": Section(
        "Metrics",
        "Hausdorff 95, mean surface distance and surface Dice of 40 organs in a mask of 512 x 512 x 300.",
        _metrics,
    ),
}

if __name__ == "__main__":
    write()
