"""Exported models: what a reader of the files alone computes is what ctseg computes; what cannot be is refused."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ctseg
from ctseg.card import Card
from ctseg.cli.app import app
from ctseg.config import LabelConfig, PredictConfig, PreprocessConfig, TaskConfig
from ctseg.engine.model.weights import save_weights
from ctseg.errors import BadInput, FileProblem, RunFailed
from ctseg.zoo.exporters import original
from ctseg.zoo.exporters.export import export_model
from ctseg.zoo.publish import publish

CT_STEPS = (
    {"kind": "clip", "low": [-100.0], "high": [300.0]},
    {"kind": "normalise", "mean": [60.0], "std": [50.0]},
)
NNUNET_STEPS = (
    {"kind": "crop", "nonzero": True},
    *CT_STEPS,
    {"kind": "resample", "spacing_xyz": [1.0, 1.0, 2.0], "order": 3, "kernel": "spline", "clip": True,
     "back_coarse_order": 0},
)  # fmt: skip
NNUNET_TILES = PredictConfig(
    tile_zyx=(12, 12, 12), blend="nnunet", padding="zeros", average="logits", mirror_axes=("z", "x")
)


@pytest.fixture
def scan(tmp_path: Path) -> ctseg.Volume:
    rng = np.random.default_rng(3)
    array = rng.normal(60, 80, (20, 18, 15)).astype(np.float32)
    return ctseg.Volume.from_array(array, spacing_xyz=(1.0, 1.0, 2.0))


def invoke(*args: Any) -> Any:
    return CliRunner().invoke(app, ["zoo", "export", *map(str, args)])


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model.json").read_text())


def by_description(folder: Path, scan: np.ndarray, load: Any) -> np.ndarray:
    """Labels [Z, Y, X] as a reader finds them who has the exported files and `model.json` only, on the network's grid.

    Written from the description, with nothing of ctseg.
    """
    model = described(folder)["models"][0]
    image = scan[None].astype(np.float32)
    for step in model["preprocessing"]:
        if step["kind"] == "clip":
            image = np.clip(image, step["low"][0], step["high"][0])
        elif step["kind"] == "normalise":
            image = (image - step["mean"][0]) / step["std"][0]
        else:
            raise AssertionError(step["kind"])
    tiles = model["tiles"]
    tile, sizes = tiles["tile_zyx"], image.shape[1:]
    starts = []
    for size, length, overlap in zip(sizes, tile, tiles["overlap_zyx"], strict=True):
        n = math.ceil((size - length) / max(length * (1 - overlap), 1)) + 1 if size > length else 1
        starts.append([round(i * (size - length) / max(n - 1, 1)) for i in range(n)])
    z, y, x = (np.array(w) for w in tiles["weights_zyx"])
    weight = z[:, None, None] * y[None, :, None] * x[None, None, :]
    scores = []
    for network in model["networks"]:
        total = np.zeros((network["output"]["shape"][1], *sizes))
        weights = np.zeros(sizes)
        run = load(folder / network["file"])
        for a in starts[0]:
            for b in starts[1]:
                for c in starts[2]:
                    place = (slice(a, a + tile[0]), slice(b, b + tile[1]), slice(c, c + tile[2]))
                    logits = run(image[(slice(None), *place)][None])[0]
                    total[(slice(None), *place)] += logits * weight
                    weights[place] += weight
        logits = total / weights
        powers = np.exp(logits - logits.max(0))
        scores.append(logits if model["average"] == "logits" else powers / powers.sum(0))
    values = np.array([label["value"] for label in model["labels"]])
    return values[np.mean(scores, axis=0).argmax(0)]


def load_torch(file: Path) -> Any:
    program = torch.export.load(file).module()

    def run(tiles: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program(torch.from_numpy(tiles)).numpy()

    return run


def load_onnx(file: Path) -> Any:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(file))
    return lambda tiles: session.run(None, {session.get_inputs()[0].name: tiles})[0]


def ensemble(make_run: Any, **card: Any) -> str:
    """An entry of two folds."""
    runs = [make_run(f"fold{i}", seed=i, fold=i, **card) for i in range(2)]
    return publish(runs, tag="two", measure=False, dtype="fp32").name


@pytest.mark.parametrize("kind", ["torch-export", "onnx"])
@pytest.mark.slow
def test_a_reader_of_the_files_alone_finds_the_same_labels(
    kind: str, make_run: Any, scan: ctseg.Volume, tmp_path: Path
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    name = ensemble(make_run, preprocess=PreprocessConfig(steps=CT_STEPS))
    done = invoke(name, "--to", kind, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    expected = ctseg.load(name, device="cpu", precision="fp32").predict(scan).array
    found = by_description(
        tmp_path / "out", scan.czyx[0], load_torch if kind == "torch-export" else load_onnx
    )
    assert len(np.unique(expected)) > 1
    assert np.mean(found == expected) > 0.9999
    about = described(tmp_path / "out")
    assert about["licence"] == "CC BY 4.0"
    model = about["models"][0]
    assert model["channels"] == ["CT"]
    assert model["activation"] == "softmax"
    assert [one["file"] for one in model["networks"]] == [
        f"fold{i}{'.pt2' if kind == 'torch-export' else '.onnx'}" for i in range(2)
    ]
    assert model["networks"][0]["input"]["shape"] == ["batch", 1, 12, 12, 12]
    assert all(one["largest_deviation"] < 1e-5 for one in model["networks"])


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("residual_unet3d", {"features": [2, 4], "blocks_per_level": [1, 1], "norm": "batch"}),
        slow("residual_unet_se3d", {"features": [2, 4], "layer_order": "gcr", "skip": "sum"}),
        slow("unet2d", {"features": [2, 4], "upsampling": "trilinear", "norm": "none"}),
        slow("timm_unet", {"encoder": "resnet18", "levels": 2}),
    ],
)
def test_every_network_becomes_a_program(
    architecture: str, options: dict[str, Any], make_run: Any, tmp_path: Path
) -> None:
    run = make_run(preprocess=PreprocessConfig())
    from ctseg.engine.model.create import create_model
    from ctseg.engine.model.weights_header import read_card

    net = create_model(architecture, in_channels=1, out_channels=3, **options)
    card = read_card(run / "best.safetensors").model_copy(
        update={
            "architecture": architecture, "options": options, "predict": PredictConfig(tile_zyx=(8, 32, 32)),
        }
    )  # fmt: skip
    save_weights(run / "best.safetensors", net.state_dict(), card)
    done = export_model(run, "torch-export", tmp_path / "out")
    assert done.networks[0].batch is None
    assert done.networks[0].deviation < 1e-5


def test_nothing_is_written_where_logits_differ(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(original, "CLOSE", -1.0)
    with pytest.raises(RunFailed, match="gives other logits than the original"):
        export_model(make_run(), "torch-export", tmp_path / "new" / "out")
    assert not list((tmp_path / "new").iterdir())


def test_a_damaged_original_is_not_exported(make_run: Any, tmp_path: Path) -> None:
    name = publish([make_run()], tag="one", measure=False).name
    folder = tmp_path / "own" / name
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 64
    file.write_bytes(content)
    done = invoke(name, "--to", "torch-export", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "checksum" in done.stderr
    assert not (tmp_path / "out").exists()


def test_only_an_earlier_export_is_replaced(make_run: Any, tmp_path: Path) -> None:
    run, folder = make_run(), tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    done = invoke(run, "--to", "torch-export", "-o", folder, "--overwrite")
    assert done.exit_code == 2
    assert "something else than an export" in done.stderr
    (folder / "thesis.txt").unlink()
    assert invoke(run, "--to", "torch-export", "-o", folder).exit_code == 0
    before = (folder / "best.pt2").stat().st_mtime_ns
    done = invoke(run, "--to", "torch-export", "-o", folder)
    assert done.exit_code == 2
    assert "--overwrite" in done.stderr
    assert (folder / "best.pt2").stat().st_mtime_ns == before
    (folder / "fold_1").mkdir()
    (folder / "fold_1" / "trained.pth").write_text("trained on from the export")
    done = invoke(run, "--to", "torch-export", "-o", folder, "--overwrite")
    assert done.exit_code == 2
    assert "fold_1/trained.pth, which the export there did not write" in done.stderr
    (folder / "fold_1" / "trained.pth").unlink()
    assert invoke(run, "--to", "torch-export", "-o", folder, "--overwrite").exit_code == 0
    assert sorted(f.name for f in folder.iterdir()) == ["best.pt2", "model.json"]
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_a_missing_package_names_the_extra(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BadInput) as caught:
        export_model(make_run(), "onnx", tmp_path / "out")
    assert "pip install 'ctseg[onnx]'" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_models_that_part_the_labels_are_described_one_by_one(
    make_run: Any, tmp_path: Path
) -> None:
    from ctseg.engine.model.weights import read_weights
    from ctseg.importer_specs import ImportedModel, ImportedWeights
    from ctseg.zoo.importers.entry import EntryOptions, write_entry
    from ctseg.zoo.importers.merge import merged

    parts = {}
    for seed, names in enumerate((("ball", "shell"), ("rib", "lung"))):
        labels = tuple(
            LabelConfig(name=name, values=(value,), value=value)
            for value, name in enumerate(("background", *names))
        )
        run = make_run(names[0], seed=seed, card_version=2, task=TaskConfig(labels=labels))
        tensors, card = read_weights(run / "best.safetensors")
        parts[names[0]] = ImportedModel(card, [ImportedWeights("weights", tensors)], "t")
    entry = write_entry(merged(parts), EntryOptions(tag="whole", licence="MIT"))
    done = export_model(entry.name, "torch-export", tmp_path / "out")
    assert [one.file for one in done.networks] == ["ball_weights.pt2", "rib_weights.pt2"]
    first, second = described(tmp_path / "out")["models"]
    assert [one["file"] for one in second["networks"]] == ["rib_weights.pt2"]
    assert [label["name"] for label in first["labels"]] == ["background", "ball", "shell"]
    values = [label["value"] for label in (*first["labels"], *second["labels"])]
    assert values == [0, 1, 2, 0, 3, 4]
    with pytest.raises(BadInput, match="parted among 2 models"):
        export_model(entry.name, "nnunet", tmp_path / "Dataset003_Whole")


# ---------------------------------------------------------------- nnU-Net


def for_nnunet(make_run: Any, name: str = "run", **card: Any) -> Path:
    fields = {"preprocess": PreprocessConfig(steps=NNUNET_STEPS), "predict": NNUNET_TILES} | card
    return make_run(name, card_version=2, **fields)


def test_a_results_folder_is_read_as_the_same_model(
    make_run: Any, scan: ctseg.Volume, tmp_path: Path
) -> None:
    from ctseg.zoo.importers.entry import EntryOptions, import_model

    run = for_nnunet(make_run)
    folder = tmp_path / "nnUNet_results" / "Dataset901_Balls"
    done = invoke(run, "--to", "nnunet", "-o", folder)
    assert done.exit_code == 0, done.output
    assert "--disable_tta" in done.stderr
    results = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert {p.name for p in results.iterdir()} == {"plans.json", "dataset.json", "fold_0"}
    entry, _ = import_model("nnunet", [folder], EntryOptions(tag="again"))
    ours, theirs = ctseg.load(run).card, entry.card()
    assert theirs.predict == ours.predict
    assert theirs.task == ours.task
    assert theirs.preprocess.steps[0]["kind"] == "crop"
    one, two = (
        ctseg.load(model, device="cpu", precision="fp32").predict(scan).array
        for model in (run, entry.name)
    )
    assert len(np.unique(one)) > 1
    assert np.array_equal(one, two)


def test_what_nnunet_cannot_express_is_refused_with_every_reason(
    make_run: Any, tmp_path: Path
) -> None:
    changes: dict[str, tuple[dict[str, Any], list[str]]] = {
        "steps": (
            {
                "preprocess": PreprocessConfig(
                    steps=(
                        {"kind": "orient"}, {"kind": "resample", "spacing_xyz": [1.0, 1.0, 1.0]}, *CT_STEPS,
                        {"kind": "pad_to_multiple"},
                    )
                )
            },
            ["orient", "kernel keys (nnU-Net: spline)", "no step 'crop'", "step 'pad_to_multiple'"],
        ),
        "order": (
            {"preprocess": PreprocessConfig(steps=(NNUNET_STEPS[0], NNUNET_STEPS[3], *CT_STEPS))},
            ["the order of the steps"],
        ),
        "percentiles": (
            {
                "preprocess": PreprocessConfig(
                    steps=({"kind": "crop", "nonzero": True},
                           {"kind": "normalise_case", "percentiles": [0.5, 99.5]})
                )
            },
            ["percentiles (0.5, 99.5)"],
        ),
        "labels": (
            {"task": TaskConfig(labels=tuple(LabelConfig(name=str(v), values=(v,), value=v) for v in (0, 1, 7)))},
            ["consecutive numbers"],
        ),
        "regression": (
            {
                "task": TaskConfig(
                    kind="regression", labels=tuple(LabelConfig(name=n, values=(1,), value=1) for n in "abc")
                )
            },
            ["a regression"],
        ),
    }  # fmt: skip
    for name, (change, reasons) in changes.items():
        run = for_nnunet(make_run, name, **change)
        with pytest.raises(BadInput) as caught:
            export_model(run, "nnunet", tmp_path / "Dataset001_X")
        for reason in reasons:
            assert reason in caught.value.message, (name, caught.value.message)
        assert not (tmp_path / "Dataset001_X").exists()


def test_networks_that_nnunet_does_not_have_are_named() -> None:
    from ctseg.nets.config import ResidualUNet3DConfig, UNet3DConfig
    from ctseg.nets.foreign.network import ForeignNetwork
    from ctseg.nets.foreign.nnunet_export import obstacles

    plain = UNet3DConfig(norm="group", skip="sum", downsampling="max")
    assert obstacles(ForeignNetwork("unet3d", plain)) == [
        "downsampling = 'max'", "skip = 'sum'", "norm = 'group'",
    ]  # fmt: skip
    assert obstacles(ForeignNetwork("unet3d", UNet3DConfig(layer_order="gcr"))) == [
        "norm = 'group'", "layer_order = 'gcr'",
    ]  # fmt: skip
    residual = ResidualUNet3DConfig(layer_order="cli", stem=False)
    assert obstacles(ForeignNetwork("residual_unet3d", residual)) == [
        "stem = False", "layer_order = 'cli'",
    ]  # fmt: skip
    assert obstacles(ForeignNetwork("timm_unet", UNet3DConfig())) == ["the network timm_unet"]
    assert not obstacles(ForeignNetwork("unet3d", UNet3DConfig(layer_order="cli", dropout=0)))


def test_a_name_that_nnunet_does_not_find_is_refused(make_run: Any, tmp_path: Path) -> None:
    done = invoke(for_nnunet(make_run), "--to", "nnunet", "-o", tmp_path / "balls")
    assert done.exit_code == 2
    assert "Dataset901_Name" in done.stderr


def test_what_nnunet_does_otherwise_is_said(make_run: Any, tmp_path: Path) -> None:
    tiles = PredictConfig(tile_zyx=(12, 12, 12), overlap=0.25, postprocess=({"label": "*", "keep_largest": 1},))  # type: ignore[arg-type]  # fmt: skip
    done = export_model(
        for_nnunet(make_run, predict=tiles), "nnunet", tmp_path / "Dataset002_Balls"
    )
    told = " ".join(done.notes)
    for part in ("-step_size 0.75", "'gaussian'", "pads with zeros", "post-processing rules"):
        assert part in told


def test_a_folder_that_cannot_be_written_is_said_to_be(make_run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileProblem):
        export_model(make_run(), "torch-export", tmp_path / "file" / "out")
    with pytest.raises(FileProblem):
        export_model(make_run("other"), "torch-export", tmp_path / "file")
    assert isinstance(ctseg.load(make_run("third")).card, Card)
