"""MONAI bundles: imported, they give MONAI's own results; what would have to be run is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.data.pipeline import Pipeline
from ctseg.errors import BadInput, FileProblem
from ctseg.zoo.importers.entry import EntryOptions, import_model
from ctseg_monai.bundle import recognise
from ctseg_monai.expressions import Settings
from tests.conformance.monai_bundles import (
    INVERT,
    SOFTMAX,
    UNET,
    WINDOW,
    config,
    run_bundle,
    write_bundle,
)


def spacing(*pixdim: float) -> dict[str, Any]:
    return {
        "_target_": "Spacingd",
        "keys": "@image_key",
        "pixdim": list(pixdim),
        "mode": "bilinear",
    }


SIGMOID = [
    INVERT,
    {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
    {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
]
LARGEST = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1, 2]}
BUNDLES = {
    "unet": config(),
    "gaussian": config(
        inferer={
            "_target_": "SlidingWindowInferer", "roi_size": [16, 24, 16], "overlap": 0.5, "mode": "gaussian",
        }
    ),
    "resampled": config(before=[spacing(1.4, 1.3, 1.9), WINDOW]),
    "cropped, normalised": config(
        before=[
            {"_target_": "CropForegroundd", "keys": "@image_key", "source_key": "@image_key", "margin": 1,
             "allow_smaller": True},
            {"_target_": "NormalizeIntensityd", "keys": "@image_key", "nonzero": True},
            {"_target_": "ScaleIntensityd", "keys": "@image_key", "minv": -1.0, "maxv": 1.0},
        ]
    ),
    "percentiles, padded": config(
        before=[
            {"_target_": "ScaleIntensityRangePercentilesd", "keys": "@image_key", "lower": 1, "upper": 99, "b_min": 0,
             "b_max": 1, "clip": True},
            {"_target_": "SpatialPadd", "keys": "@image_key", "spatial_size": [40, 24, 25]},
        ]
    ),
    "smaller than a patch": config(inferer={"_target_": "SlidingWindowInferer", "roi_size": [48, 16, 16]}),
    "cleaned": config(after=[*SOFTMAX, LARGEST]),
    "copied": config(before=[{"_target_": "CopyItemsd", "keys": "@image_key", "names": "raw"}, WINDOW]),
    "segresnet, channels": config(
        network_def={"_target_": "SegResNet", "init_filters": 8, "in_channels": 1, "out_channels": 3,
                     "blocks_down": [1, 1], "blocks_up": [1], "dropout_prob": 0.2},
        after=SIGMOID,
    ),
    "dynunet": config(
        network_def={"_target_": "monai.networks.nets.DynUNet", "spatial_dims": 3, "in_channels": 1,
                     "out_channels": "@classes", "kernel_size": [3, 3, 3], "strides": [1, 2, [2, 2, 1]],
                     "upsample_kernel_size": [2, [2, 2, 1]], "norm_name": "instance", "filters": [4, 8, 8],
                     "res_block": True, "deep_supervision": True},
    ),
    "unetr": config(
        network_def={"_target_": "UNETR", "in_channels": 1, "out_channels": 3, "img_size": 16, "feature_size": 4,
                     "hidden_size": 12, "mlp_dim": 16, "num_heads": 2, "norm_name": "instance"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A scan whose axes are neither those of MONAI nor those of ctseg."""
    rng = np.random.default_rng(0)
    array = rng.normal(0, 100, (24, 30, 20)).astype(np.float32)
    array[:3] = array[:, :2] = 0
    affine = np.array([[0, 0, -2.0, 30], [-0.9, 0, 0, 10], [0, 1.1, 0, -40], [0, 0, 0, 1.0]])
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BUNDLES)
def test_an_imported_bundle_gives_monais_results(name, scan, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", BUNDLES[name])
    image, logits, labels = run_bundle(bundle, scan)
    entry, _ = import_model("monai", [bundle], EntryOptions(tag="t", zoo=tmp_path / "zoo"))
    card = entry.card()
    volume = ctseg.read(scan)
    ours, _ = Pipeline.of(card.preprocess).image(volume.czyx, volume.geometry)
    np.testing.assert_allclose(ours, image, atol=1e-5)
    model = ctseg.load(entry.folder, precision="fp32")
    if name != "smaller than a patch":
        found = ctseg.predict_tiles(
            model.networks[0],
            ours,
            card.predict.tile_zyx,
            card.predict.overlap,
            card.predict.blend,
            precision="fp32",
        )
        np.testing.assert_allclose(found, logits, atol=1e-5)
    if card.task.kind == "channels":
        found = model.probabilities(volume).array > 0.5
        assert np.mean(found == labels.transpose(0, 3, 2, 1)) == 1
    else:
        assert np.mean(model.predict(volume).array == labels[0].transpose(2, 1, 0)) == 1


def test_the_card_says_what_the_bundle_says(tmp_path):
    bundle = write_bundle(
        tmp_path / "Two Parts", config(after=[SOFTMAX[1], INVERT, SOFTMAX[2], LARGEST])
    )
    assert recognise(bundle)
    entry, notes = import_model("monai", [bundle], EntryOptions(zoo=tmp_path / "zoo"))
    card = entry.card()
    assert entry.name == "monai_unet.two_parts"
    assert card.licence == "CC0-1.0"
    assert card.channels == ("CT",)
    assert [(i.name, i.value) for i in card.task.labels] == [
        ("background", 0),
        ("left", 1),
        ("right", 2),
    ]
    assert card.provider.package == "ctseg-monai"
    assert [step["kind"] for step in card.preprocess.steps] == ["orient", "rescale"]
    assert card.predict.blend == "monai_constant"
    assert card.predict.overlap == 0.25
    assert [(rule.label, rule.keep_largest) for rule in card.predict.postprocess] == [
        ("left", 1),
        ("right", 1),
    ]
    assert card.source.importer == "monai"
    assert list(card.source.files_sha256) == ["models/model.pt"]
    assert notes == tuple(f"Not taken over: {what}." for what in card.source.left_out)
    assert "probabilities" in notes[0]


def test_a_zip_and_yaml_are_read(tmp_path):
    import yaml

    bundle = write_bundle(tmp_path / "parts", config())
    file = bundle / "configs" / "inference.json"
    file.with_suffix(".yaml").write_text(yaml.safe_dump(json.loads(file.read_text())))
    file.unlink()
    packed = shutil.make_archive(str(tmp_path / "parts"), "zip", tmp_path, "parts")
    assert recognise(Path(packed))
    entry, _ = import_model("monai", [packed], EntryOptions(tag="a", zoo=tmp_path / "zoo"))
    again, _ = import_model("monai", [bundle], EntryOptions(tag="b", zoo=tmp_path / "zoo"))
    assert entry.card().members[0].tensors_sha256 == again.card().members[0].tensors_sha256


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("@classes", 3),
        ("%classes", 3),
        ("$@classes + 1", 4),
        ("$len(@parts) * 2 - 1", 3),
        ("@parts::1", "b"),
        ("@table#deep::0", 7),
        ("$[8, 8] + [@classes] * 2", [8, 8, 3, 3]),
        ("$[1.5, 2] if not @flag else 3", [1.5, 2]),
        ("$float(@classes) / 2", 1.5),
        ("$monai.utils.CommonKeys.IMAGE", "image"),
        ("plain @text", "plain @text"),
    ],
)
def test_values_that_are_understood(text, value):
    content = {
        "classes": "$1 + 2",
        "parts": ["a", "b"],
        "flag": False,
        "table": {"deep": [7]},
        "x": text,
    }
    assert Settings(content, "c.json").get("x") == value


@pytest.mark.parametrize(
    "text",
    [
        "$import os", "$__import__('os').system('touch MARK')", "$open('MARK', 'w')", "$os.system('touch MARK')",
        "$(lambda: 1)()", "$[x for x in (1, 2)]", "$@classes.real", "$getattr(1, 'real')", "$print('x')",
        "$'a' * 10**9", "$'%s' % 3", "$f'{1}'", "$(x := 3)", "$1 +", "$9**9**9", "%/etc/passwd", "%../other.json",
        "%other.json::key", "@nothing", "@x", "$@x",
    ],
)  # fmt: skip
def test_whatever_else_is_refused(text):
    with pytest.raises(BadInput, match=r"c\.json"):
        Settings({"classes": 3, "x": text}, "c.json").get("x")


class Runs:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def _hostile(kind: str, bundle: Path, mark: Path) -> list[str]:
    """Make a bundle a hostile one; returns options of the import, and the name that the error must have."""
    run = f"$__import__('os').system('touch {mark}')"
    changes: dict[str, Any] = {
        "import": {"network_def": UNET | {"in_channels": "$import os"}},
        "dunder": {"network_def": UNET | {"in_channels": run}},
        "unread key": {"run": [run]},
        "its own code": {"network_def": {"_target_": "scripts.net.Net", "in_channels": 1}},
        "callable": {"inferer": {"_target_": "os.system", "command": f"touch {mark}"}},
        "absolute": {"handlers": [{"_target_": "CheckpointLoader", "load_path": "/etc/models/model.pt"}]},
        "above": {"handlers": [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/../models/m.pt'"}]},
    }  # fmt: skip
    if kind in changes:
        (bundle / "configs" / "inference.json").write_text(json.dumps(config(**changes[kind])))
        return []
    if kind == "pickle":
        torch.save(
            {"state_dict": {"a": torch.ones(1)}, "x": Runs(mark)}, bundle / "models" / "model.pt"
        )
    if kind == "script":
        (bundle / "models" / "model.pt").rename(bundle / "models" / "model.ts")
    return {
        "named above": ["--option", "weights=../model.pt"],
        "named absolute": ["--option", "config=/x.json"],
    }.get(kind, [])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("import", "import os"), ("dunder", "__import__"), ("unread key", "__import__"),
        ("its own code", "scripts.net"),
        ("callable", "os.system"), ("absolute", "/etc/models"), ("above", "/../"), ("pickle", "system"),
        ("script", "model.ts"), ("named above", "../model.pt"), ("named absolute", "/x.json"),
    ],
)  # fmt: skip
def test_hostile_bundles_are_refused_by_name(kind, named, tmp_path):
    mark = tmp_path / "ran"
    bundle = write_bundle(tmp_path / "bundle", config())
    options = _hostile(kind, bundle, mark)
    zoo = tmp_path / "zoo"
    done = CliRunner().invoke(
        app, ["zoo", "import", "monai", str(bundle), "--zoo", str(zoo), *options]
    )
    assert done.exit_code == 2
    assert named in " ".join(done.stderr.split())
    assert not mark.exists()
    assert not zoo.exists()


def test_a_zip_that_leads_out_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("b/configs/inference.json", "{}")
        file.writestr("b/../../x", "")
    with pytest.raises(BadInput, match=r"\.\./\.\./x"):
        import_model("monai", [tmp_path / "b.zip"], EntryOptions(zoo=tmp_path / "zoo"))


def copied(key: str, name: str) -> dict[str, Any]:
    return {"_target_": "CopyItemsd", "keys": key, "names": name}


LAMBDA = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x[1:]"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"before": [{"_target_": "Resized", "keys": "image", "spatial_size": [8, 8, 8]}]},
            "Resized",
        ),
        ({"before": [{"_target_": "scripts.t.Mined", "keys": "image"}]}, r"scripts\.t\.Mined"),
        ({"before": [copied("label", "image")]}, "CopyItemsd copies label to image"),
        (
            {"before": [copied("image", "other"), {**WINDOW, "keys": "other"}]},
            "CopyItemsd copies image to other",
        ),
        ({"after": [*SOFTMAX, LAMBDA]}, "lambda"),
        ({"after": [INVERT]}, "neither softmax"),
        (
            {"after": [SIGMOID[1], {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.3}]},
            "threshold",
        ),
        ({"network_def": UNET | {"spatial_dims": 2}}, "2 dimensions"),
        ({"network_def": UNET | {"_target_": "VNet"}}, "VNet"),
        ({"network_def": UNET | {"surprise": 1}}, "surprise"),
        ({"network_def": UNET | {"channels": [4, 8, 16]}}, "do not fit"),
        ({"inferer": {"_target_": "SliceInferer", "roi_size": [8, 8]}}, "SliceInferer"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [10, 16, 16]}}, "roi_size"),
        ({"preprocessing": 3}, "no list"),
    ],
)
def test_what_has_no_counterpart_is_named(changes, named, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", config())
    (bundle / "configs" / "inference.json").write_text(json.dumps(config(**changes)))
    with pytest.raises(BadInput, match=named):
        import_model("monai", [bundle], EntryOptions(zoo=tmp_path / "zoo"))


def test_transforms_after_the_network_can_be_skipped(tmp_path):
    bundle = write_bundle(tmp_path / "bundle", config(after=[*SOFTMAX, LAMBDA]))
    entry, notes = import_model(
        "monai", [bundle], EntryOptions(zoo=tmp_path / "zoo"), options={"skip": "Lambdad"}
    )
    assert notes == ("Not taken over: Lambdad after the network, as asked for (skip).",)
    assert entry.card().source.left_out


def test_missing_parts_are_named(tmp_path):
    bundle = write_bundle(tmp_path / "bundle", config(), weights=False)
    with pytest.raises(FileProblem, match=r"models/model\.pt"):
        import_model("monai", [bundle], EntryOptions(zoo=tmp_path / "zoo"))
    assert not recognise(tmp_path)
    assert not recognise(tmp_path / "nothing")
