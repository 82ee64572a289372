"""The checks of `ctseg doctor`; a check that raises becomes a failed finding."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctseg import machine
from ctseg.version import __version__

State = Literal["ok", "warning", "failed"]
ESSENTIAL = (
    "torch", "numpy", "scipy", "h5py", "tifffile", "imagecodecs", "pydantic", "safetensors",
    "pluggy", "platformdirs", "matplotlib", "typer", "rich",
)  # fmt: skip
OPTIONAL = ("tensorboard", "monai")
TRIED = 5
"""Networks of which it is shown how OpenVINO computed them."""
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    area: str
    check: str
    state: State
    found: str
    hint: str = ""


def examine() -> list[Finding]:
    """Run all checks, in a fixed order."""
    findings: list[Finding] = []
    for area, check in _AREAS:
        try:
            findings += check()
        except Exception as error:  # report the failure and continue
            text = f"{type(error).__name__}: {error}"
            findings.append(Finding(area, "check", "failed", text, "See: ctseg --debug doctor"))
    return findings


def packages() -> Iterator[Finding]:
    yield Finding("software", "ctseg", "ok", __version__)
    yield Finding(
        "software", "python", "ok", f"{platform.python_version()} on {platform.platform()}"
    )
    for name in ESSENTIAL:
        try:
            importlib.import_module(name)
        except Exception as error:
            hint = f"Install it again: pip install --force-reinstall {name}"
            yield Finding("software", name, "failed", f"{type(error).__name__}: {error}", hint)
        else:
            yield Finding("software", name, "ok", _version(name))
    for name in OPTIONAL:
        yield Finding("software", name, "ok", _version(name) or "not installed (optional)")


def timm() -> Iterator[Finding]:
    from ctseg.engine.training.optim import timm as load

    count = len(load().optim.list_optimizers())
    yield Finding("software", "timm", "ok", f"{_version('timm')}, {count} optimizers")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def devices() -> Iterator[Finding]:
    import torch

    from ctseg.engine.model.runtime import choose, cpu_bf16

    yield Finding("device", "chosen", "ok", choose().describe())
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        text = f"{about.name}, {about.total_memory / GIB:.0f} GiB"
        yield Finding("device", f"cuda:{index}", "ok", text)
    text = f"{machine.cores()} cores, {torch.get_num_threads()} threads"
    text += ", bf16 in hardware (AVX512-BF16 or AMX)" if cpu_bf16() else ", no bf16: fp32 is used"
    yield Finding("device", "cpu", "ok", text)


def speed() -> Iterator[Finding]:
    """Which precision and memory layout are fastest here, tried on a small U-Net; runs try their own network."""
    from ctseg.engine.model.create import create_model
    from ctseg.engine.model.measure_runtime import choose_measured
    from ctseg.engine.model.runtime import choose

    net = create_model("unet3d", in_channels=1, out_channels=2, features=(24, 48, 96))
    found = choose_measured(choose(), net, (1, 1, 32, 32, 32), training=True)
    yield Finding("device", "fastest for a U-Net", "ok", found.runtime.describe())
    for name, text in found.differing.items():
        yield Finding("device", name, "warning", text, "It is not used; a newer torch may help.")


def openvino() -> Iterator[Finding]:
    """What OpenVINO was measured to gain on this processor, of the networks that were tried last."""
    from ctseg.engine.inference.backends import openvino, records
    from ctseg.engine.model.runtime import has_openvino

    if not has_openvino():
        text = "not installed (optional; predictions on CPUs may be faster with it)"
        yield Finding("device", "openvino", "ok", text, "pip install 'ctseg[openvino]'")
        return
    yield Finding("device", "openvino", "ok", openvino.version())
    about = openvino.about()
    here = (
        (made_of, record) for made_of, record in records.kept()
        if all(made_of.get(name) == value for name, value in about.items())
    )  # fmt: skip
    for made_of, record in itertools.islice(here, TRIED):
        network = json.loads(made_of["identity"])["architecture"]
        tile = " x ".join(map(str, made_of["tile_czyx"][1:]))
        text = f"{made_of['precision']}, {made_of['threads']} threads: {record}"
        yield Finding("device", f"openvino, {network}, {tile}", "ok", text)


def memory() -> Iterator[Finding]:
    known = machine.memory()
    if known is not None:
        total, free = known
        state: State = "ok" if free > 2 * GIB else "warning"
        text = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
        yield Finding("machine", "memory", state, text)
    for check, path in (
        ("disk, here", Path.cwd()),
        ("disk, temporary", Path(tempfile.gettempdir())),
    ):
        usage = shutil.disk_usage(path)
        state = "ok" if usage.free > 2 * GIB else "warning"
        yield Finding("machine", check, state, f"{usage.free / GIB:.1f} GiB free ({path})")


def plugins() -> Iterator[Finding]:
    from ctseg.plugins import registry

    known = registry()
    counts = {kind: len(known.table(kind)) for kind in ("architecture", "loss", "reader", "format")}
    for info in known.plugins:
        name = f"{info.package} ({info.name})"
        if info.error:
            hint = "Show the traceback: ctseg plugins list --json"
            yield Finding("plugins", name, "warning", info.error, hint)
        else:
            yield Finding("plugins", name, "ok", info.version or "loaded")
    for kind, count in counts.items():
        state: State = "ok" if count else "failed"
        hint = "" if count else "Install ctseg again: its own plugin is missing."
        yield Finding("plugins", f"kinds of {kind}", state, str(count), hint)


def zoos() -> Iterator[Finding]:
    from ctseg.zoo.folders import search_path, user_zoo
    from ctseg.zoo.store import entries_in

    own = user_zoo()
    for zoo in search_path():
        text = f"{zoo}: {len(entries_in(zoo))} models"
        state: State = "ok"
        if zoo == own:
            existing = next(p for p in [zoo, *zoo.parents] if p.exists())
            if not os.access(existing, os.W_OK):
                state, text = "warning", f"{text}, cannot be written"
        hint = "Use another zoo: --zoo FOLDER, or set CTSEG_ZOO." if state == "warning" else ""
        yield Finding("zoo", "yours" if zoo == own else "shipped", state, text, hint)


def probes() -> Iterator[Finding]:
    """Whether published models compute here, with device and precision of predictions, what they did when published."""
    from ctseg.engine.model.build import check_provider
    from ctseg.engine.model.runtime import choose
    from ctseg.errors import CtsegError
    from ctseg.zoo.probe import load_network, read_probe
    from ctseg.zoo.resolve import all_entries

    runtime = choose()
    hint = "Compare with: ctseg zoo verify, and update torch and the plugin of the network."
    for name, (entry, *_) in all_entries().items():
        problems: list[str] = []
        try:
            card, probe = entry.card(), read_probe(entry.folder)
            check_provider(card)
            for file, expected in probe.items():
                network = load_network(entry.folder / file, card.of_file(file), runtime)
                problems += expected.problems(network, runtime, file)
        except CtsegError as error:
            yield Finding("zoo", name, "warning", error.message, error.hint or "")
            continue
        if problems:
            yield Finding("zoo", name, "failed", "; ".join(problems), hint)
        else:
            text = f"computes as published ({runtime.precision})" if probe else "has no probe"
            yield Finding("zoo", name, "ok", text)


def sources() -> Iterator[Finding]:
    """Where models may be fetched from; nothing is contacted."""
    from ctseg.errors import CtsegError
    from ctseg.zoo.sources import configured, sources_file

    file = sources_file()
    try:
        known = configured()
    except CtsegError as error:
        yield Finding("zoo", "sources", "warning", error.message, error.hint or "")
        return
    if not known.source:
        text = f"none in {file}: ctseg zoo fetch needs --from URL"
        yield Finding("zoo", "sources", "ok", text)
    for number, source in enumerate(known.source, 1):
        state: State = "ok"
        text, hint = source.url + (", pinned" if source.pin else ""), ""
        if source.scheme == "folder" and not source.folder.is_dir():
            state, text, hint = "warning", f"{text} is not there", f"Correct it in {file}."
        elif known.offline and source.scheme != "folder":
            text += ", not used (offline)"
        elif not (source.protected or source.pin):
            state, text = "warning", f"{text} is not protected"
            hint = f"Use https://, or add the pin of its index to {file}."
        yield Finding("zoo", f"source {number}", state, text, hint)


def prediction() -> Iterator[Finding]:
    """Write, read and predict a tiny scan with the first built-in network, and check the geometry of the result."""
    import numpy as np

    from ctseg.engine.inference.predict_tiles import predict_tiles
    from ctseg.plugins import registry
    from ctseg.volume.io import read, write
    from ctseg.volume.volume import Volume

    spec = next(iter(registry().entries("architecture").values())).spec
    config = spec.config()
    needs = spec.constraints_for(config)
    sizes = zip(needs.stride_zyx, needs.min_tile_zyx, strict=True)
    tile = needs.fixed_tile_zyx or tuple(-(-max(m, 8) // s) * s for s, m in sizes)
    array = np.random.default_rng(0).normal(size=tile).astype(np.float32)
    scan = Volume.from_array(array, spacing_xyz=(0.7, 0.8, 2.5), origin_xyz=(-10.0, 5.0, 30.0))
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "scan.nii.gz", Path(name) / "mask.nii.gz"
        write(scan, source)
        loaded = read(source)
        net = spec.build(config, in_channels=1, out_channels=2)
        labels = predict_tiles(
            net, loaded.czyx, tile_zyx=tile, output="labels", activation="softmax"
        )
        write(Volume(labels.astype(np.uint8), loaded.geometry), target)
        same = read(target).geometry.agrees(scan.geometry)
    text = f"{spec.name}, tile {' x '.join(map(str, tile))}, "
    if same:
        yield Finding("prediction", "round trip", "ok", text + "geometry kept")
    else:
        yield Finding("prediction", "round trip", "failed", text + "geometry lost", "Report this.")


_AREAS: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
    ("software", packages),
    ("software", timm),
    ("device", devices),
    ("device", speed),
    ("device", openvino),
    ("machine", memory),
    ("plugins", plugins),
    ("zoo", zoos),
    ("zoo", probes),
    ("zoo", sources),
    ("prediction", prediction),
)
