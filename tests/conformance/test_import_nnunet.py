"""Models of nnU-Net v2, made with its own classes, imported: the label maps are those of its own predictor."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg import plugins
from ctseg.card import TrainingScans
from ctseg.cli.app import app
from ctseg.errors import BadInput, CtsegError
from ctseg.zoo.importers.entry import EntryOptions, import_model, read_model
from ctseg.zoo.importers.nnunet_labels import postprocessing, task_of
from ctseg.zoo.importers.nnunet_steps import steps_of
from ctseg.zoo.store import ZooEntry

pytest.importorskip("nnunetv2")

_spec = importlib.util.spec_from_file_location(
    "nnunet_folders", Path(__file__).with_name("nnunet_folders.py")
)
assert _spec is not None
assert _spec.loader is not None
made_with = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_with)
dataset_json, plans, predicted = made_with.dataset_json, made_with.plans, made_with.predicted
results_folder, scan = made_with.results_folder, made_with.scan

LEAST_EQUAL = 0.9995
CLOSE = 5e-5
"""Of probabilities; both sum float32 in their own order."""

FLAT = {
    "configuration": "2d",
    "patch": (24, 16),
    "spacing": (0.9, 0.8),
    "strides": ((1, 1), (2, 2), (2, 2)),
}
THICK = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
ONE = {"shape": (20, 28, 23), "spacing": (1.0, 1.0, 1.0)}

# name: plans, dataset.json, scan, and how results are made and predicted
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "several tiles": ({}, {}, ONE, {}),
    "smaller than the patch": ({}, {}, {**ONE, "shape": (10, 30, 15)}, {}),
    "other spacing": ({"spacing": (1, 0.9, 1.1)}, {}, {**ONE, "spacing": (0.7, 0.7, 1.25)}, {}),
    "thick slices kept": (
        {"spacing": (4, 1, 1), "strides": THICK}, {}, {"shape": (18, 34, 30), "spacing": (0.8, 0.8, 4)}, {},
    ),
    "thick slices resampled": ({}, {}, {"shape": (7, 34, 30), "spacing": (0.8, 0.8, 4)}, {}),
    "thick plans, thinner scan": (
        {"spacing": (5, 1, 1), "strides": THICK}, {}, {"shape": (29, 34, 30), "spacing": (0.9, 0.9, 3.1)}, {},
    ),
    "transposed, mirrored": (
        {"transpose": (2, 0, 1), "spacing": (1, 0.9, 0.8)},
        {},
        {"shape": (17, 18, 20), "spacing": (1.2, 1, 1)},
        {"mirror": True},
    ),
    "two folds, residual": ({"residual": True}, {}, ONE, {"folds": (0, 3)}),
    "masked z-score": (
        {"schemes": ("ZScoreNormalization",) * 2, "masked": (True, False)}, {"channels": ("T1", "T2")},
        ONE, {"channels": 2, "empty": 3},
    ),
    "masked z-score beside CT": (
        {"schemes": ("CTNormalization", "ZScoreNormalization"), "masked": (False, True)},
        {"channels": ("CT", "T1")}, ONE, {"channels": 2, "empty": 3},
    ),
    "other schemes": (
        {"schemes": ("CTNormalization", "RescaleTo01Normalization", "NoNormalization"), "masked": (False,) * 3},
        {"channels": ("CT", "PET", "map")}, ONE, {"channels": 3, "empty": 2},
    ),
    "regions": (
        {}, {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]},
        {**ONE, "spacing": (1, 1, 1.3)}, {"folds": (0, 1)},
    ),
    "2d": (FLAT, {}, {"shape": (6, 34, 30), "spacing": (0.8, 0.8, 4)}, {"axes": (0, 1), "mirror": True}),
    "2d, transposed": (
        {**FLAT, "transpose": (1, 0, 2)}, {}, {"shape": (26, 9, 24), "spacing": (0.8, 1, 0.9)}, {"axes": (0, 1)},
    ),
    "batch norm": ({}, {}, ONE, {"trainer": "nnUNetTrainerBN"}),
    "torch resampling": (
        {
            f"resampling_fn_{key}": "resample_torch_fornnunet" for key in ("data", "seg", "probabilities")
        }
        | {
            f"resampling_fn_{key}_kwargs": {"is_seg": key == "seg", "force_separate_z": None}
            for key in ("data", "seg", "probabilities")
        },
        {}, {"shape": (7, 34, 30), "spacing": (0.8, 0.8, 4)}, {},
    ),
    "never apart": (
        {
            f"resampling_fn_{key}_kwargs": {
                "is_seg": key == "seg", "order": 3 if key == "data" else 1, "order_z": 0, "force_separate_z": False,
            }
            for key in ("data", "seg", "probabilities")
        },
        {}, {"shape": (7, 34, 30), "spacing": (0.8, 0.8, 4)}, {},
    ),
    "turned to RAS": ({"reader": "NibabelIOWithReorient"}, {}, {**ONE, "turned": True}, {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTSEG_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))


def made(tmp_path: Path, **how: Any) -> Path:
    """A results folder with one fold."""
    about = how.pop("about", None) or dataset_json()
    return results_folder(tmp_path / "made", plans(), about, **how)


def ours(
    entry: ZooEntry, files: list[Path], *, mirror: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    segmenter = ctseg.load(entry.name, device="cpu", precision="fp32").with_settings(tta=mirror)
    volumes = [ctseg.read(file) for file in files]
    volume = ctseg.Volume(np.concatenate([v.czyx for v in volumes]), volumes[0].geometry)
    return segmenter.predict(volume).array, segmenter.probabilities(volume).array


@pytest.mark.filterwarnings("ignore:The scan has voxels of:ctseg.errors.CtsegWarning")
@pytest.mark.parametrize("name", CASES)
def test_label_maps_are_those_of_nnunet(name: str, tmp_path: Path) -> None:
    settings, about, image, how = CASES[name]
    folds, mirror = how.get("folds", (0,)), how.get("mirror", False)
    results = results_folder(
        tmp_path / "made", plans(**settings), dataset_json(**about), folds=folds,
        mirror_axes=how.get("axes", (0, 1, 2)), trainer=how.get("trainer", "nnUNetTrainer"),
    )  # fmt: skip
    direction = np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]) if image.get("turned") else None
    files = scan(
        tmp_path, "case", image["shape"], image["spacing"], channels=how.get("channels", 1),
        empty=how.get("empty", 0), direction=direction,
    )  # fmt: skip
    expected, probabilities = predicted(results, files, tmp_path / "theirs", mirror=mirror)
    entry, _ = import_model("nnunet", [results])
    labels, shares = ours(entry, files, mirror=mirror)
    assert len(np.unique(expected)) > 1
    assert np.mean(labels == expected) >= LEAST_EQUAL
    if not image.get("turned"):  # nnU-Net leaves probabilities as its reader turned them
        assert np.abs(shares - probabilities).max() < CLOSE
    members = [member.file for member in entry.card().members]
    assert members == [f"fold{fold}.safetensors" for fold in folds]


@pytest.mark.real_data
def test_real_scans_against_nnunet_as_it_comes(tmp_path: Path, real_data: Path) -> None:
    """Its sums are of float16, so that near-ties may go the other way; random weights have many of them."""
    results = results_folder(
        tmp_path / "made", plans(schemes=("ZScoreNormalization",), patch=(40, 56, 40)),
        dataset_json(channels=("MR",)),
    )  # fmt: skip
    entry, _ = import_model("nnunet", [results])
    equal = []
    for number, file in enumerate(
        sorted((real_data / "Dataset004_Hippocampus/imagesTr").iterdir())[:3]
    ):
        expected, _ = predicted(results, [file], tmp_path / f"theirs{number}", exact=False)
        equal.append(ours(entry, [file])[0] == expected)
    assert np.mean(np.concatenate([e.ravel() for e in equal])) >= LEAST_EQUAL


def test_parts_become_one_model_with_all_labels(tmp_path: Path) -> None:
    """As TotalSegmentator lays its parts: labels numbered through, the later part over the earlier one."""
    about = [
        dataset_json({"background": 0, "liver": 1, "spleen": 2}),
        dataset_json({"background": 0, "vertebra": 1}),
        dataset_json({"background": 0, "rib": 1, "sternum": 2, "lung": 3}),
    ]
    settings: list[dict[str, Any]] = [{}, {"spacing": (1.5, 1.4, 1.4)}, {"residual": True}]
    folders = [
        results_folder(
            tmp_path / str(i), plans(**settings[i]), about[i], folds=(i,), mirror_axes=None
        )
        for i in range(3)
    ]
    files = scan(tmp_path, "case", (18, 26, 23), (1.0, 1.0, 1.0))
    expected = np.zeros((18, 26, 23), np.uint8)
    for folder, values in zip(folders, ({1: 1, 2: 2}, {1: 3}, {1: 4, 2: 5, 3: 6}), strict=True):
        labels, _ = predicted(folder, files, folder / "theirs")
        for value, number in values.items():
            expected[labels == value] = number
    done = CliRunner().invoke(
        app,
        ["zoo", "import", "nnunet", str(folders[0]), "--merge", f"spine={folders[1]}",
         "--merge", f"chest={folders[2]}", "--tag", "whole"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    target = tmp_path / "mask.nii.gz"
    done = CliRunner().invoke(
        app,
        ["predict", str(files[0]), "-m", "unet3d.whole", "-o", str(target), "--precision", "fp32", "--masks"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = ctseg.read(target).array
    assert set(np.unique(expected)) >= {4, 5, 6}
    assert np.mean(found == expected) >= LEAST_EQUAL
    assert np.array_equal(ctseg.read(tmp_path / "mask_masks" / "rib.nii.gz").array > 0, found == 4)
    card = ctseg.load("unet3d.whole").card
    assert [part.name for part in card.parts] == ["first", "spine", "chest"]
    assert [label.name for label in card.task.labels][1:] == [
        "liver", "spleen", "vertebra", "rib", "sternum", "lung",
    ]  # fmt: skip
    segmenter = ctseg.load("unet3d.whole", precision="fp32")
    assert np.array_equal(segmenter.predict(ctseg.read(files[0])).array, found)
    assert CliRunner().invoke(app, ["zoo", "verify", "unet3d.whole"]).exit_code == 0
    with pytest.raises(BadInput, match="no probabilities"):
        segmenter.probabilities(ctseg.read(files[0]))
    entry = ZooEntry("unet3d.whole", tmp_path / "zoo" / "unet3d.whole")
    with pytest.raises(BadInput, match="one part of"):
        ctseg.load(entry.weights()[0])


TOTAL = {"organs": 24, "vertebrae": 26, "cardiac": 18, "muscles": 23, "ribs": 26}
"""TotalSegmentator's parts at 1.5 mm and how many labels each of them has; at 3 mm one model has all."""


@pytest.mark.slow
@pytest.mark.parametrize("mm", [1.5, 3.0])
def test_a_folder_as_totalsegmentator_lays_it_out(mm: float, tmp_path: Path) -> None:
    """Weights are random and widths small; labels, trainer, reader and merging are TotalSegmentator's."""
    parts = TOTAL if mm == 1.5 else {"total_3mm": sum(TOTAL.values())}
    how = {"spacing": (mm,) * 3, "reader": "NibabelIOWithReorient"}
    folders = {}
    for number, (part, count) in enumerate(parts.items()):
        labels = {"background": 0, **{f"{part}_{i}": i for i in range(1, count + 1)}}
        name = f"Dataset{(291 if mm == 1.5 else 297) + number}_TotalSegmentator_{part}_1559subj"
        folders[part] = results_folder(
            tmp_path / "nnunet" / "results" / name, plans(**how), dataset_json(labels), folds=(number,),
            mirror_axes=None, trainer="nnUNetTrainerNoMirroring", background=9.0,
        )  # fmt: skip
        if number:  # which seeds the weights
            (folders[part] / f"fold_{number}").rename(folders[part] / "fold_0")
    turned = np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
    shape = (24, 28, 30)
    files = scan(tmp_path, "case", shape, (2.0, 1.4, 2.6), direction=turned, seed=1)
    expected, offset = np.zeros(shape, np.uint8), 0
    for part, folder in folders.items():
        labels, _ = predicted(folder, files, folder / "theirs")
        expected = np.where(labels > 0, labels + offset, expected)  # the later part counts
        offset += parts[part]
    first, *rest = folders.values()
    merge = [word for part in list(parts)[1:] for word in ("--merge", f"{part}={folders[part]}")]
    assert len(rest) * 2 == len(merge)
    done = CliRunner().invoke(
        app, ["zoo", "import", "nnunet", str(first), *merge, "--tag", "total", "--licence", "Apache-2.0"]
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    target = tmp_path / "mask.nii.gz"
    done = CliRunner().invoke(
        app, ["predict", str(files[0]), "-m", "unet3d.total", "-o", str(target), "--precision", "fp32"]
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = ctseg.read(target).array
    sizes = np.cumsum(list(parts.values()))
    assert {int(np.searchsorted(sizes, v)) for v in np.unique(expected[expected > 0])} == set(
        range(len(parts))
    )
    assert np.mean(found == expected) >= LEAST_EQUAL
    assert len(ctseg.load("unet3d.total").card.task.labels) == 118


CASCADES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "classes": ({}, {}, {"shape": (18, 28, 24), "spacing": (1.0, 1.0, 1.0)}),
    "regions, transposed, resampled": (
        {"transpose": (2, 0, 1), "spacing": (1, 0.9, 0.8)},
        {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]},
        {"shape": (17, 18, 20), "spacing": (1.2, 1, 1)},
    ),
}


@pytest.mark.parametrize("name", CASCADES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_cascade_sees_the_labels_of_the_stage_before(
    name: str, packed: bool, tmp_path: Path
) -> None:
    settings, about, image = CASCADES[name]
    low = plans(**{**settings, "spacing": (1.9, 1.8, 1.7)}, configuration="3d_lowres")
    high = plans(**settings, configuration="3d_cascade_fullres", previous_stage="3d_lowres")
    low["configurations"] |= high["configurations"]
    both = {**low, "configurations": dict(reversed(low["configurations"].items()))}
    described, data = dataset_json(**about), tmp_path / "Dataset900_Made"
    coarse = results_folder(data, low, described)
    fine = results_folder(data, both, described)
    files = scan(tmp_path, "case", image["shape"], image["spacing"], empty=2)
    seen, _ = predicted(coarse, files, tmp_path / "coarse")
    assert set(np.unique(seen)) == {0, 1, 2}
    (tmp_path / "before").mkdir()
    (tmp_path / "coarse" / "map.nii.gz").rename(tmp_path / "before" / "case.nii.gz")
    expected, probabilities = predicted(
        fine, files, tmp_path / "theirs", before=tmp_path / "before"
    )
    place, options = fine, {}
    if packed:
        place, options = tmp_path / "all.zip", {"configuration": "3d_cascade_fullres"}
        with zipfile.ZipFile(place, "w") as archive:
            for file in sorted(data.rglob("*")):
                archive.write(file, file.relative_to(tmp_path))
    entry, _ = import_model("nnunet", [place], EntryOptions(tag="both"), options=options)
    card = entry.card()
    assert card.stages[0].model == "unet3d.both_first"
    assert (card.in_channels, card.network_channels) == (1, 3)
    labels, shares = ours(entry, files)
    assert np.mean(labels == expected) >= LEAST_EQUAL
    assert np.abs(shares - probabilities).max() < CLOSE
    beside = list(plugins.importer("nnunet").beside(place))
    assert beside == ([] if packed else [coarse.resolve()])
    if not packed:
        target = tmp_path / "mask.nii.gz"
        done = CliRunner().invoke(
            app,
            ["predict", str(files[0]), "-m", str(fine), "-o", str(target), "--precision", "fp32"],
        )
        assert done.exit_code == 0, done.output
        assert np.array_equal(ctseg.read(target).array, labels)
        with pytest.raises(BadInput, match="takes the labels of"):
            ctseg.load(entry.name, coarse="unet3d.both_first")
        with pytest.raises(BadInput, match="cannot be made of several models"):
            ctseg.load([entry.name, entry.name])
    assert CliRunner().invoke(app, ["zoo", "verify", entry.name]).exit_code == 0


def test_a_cascade_asks_for_the_stage_before(tmp_path: Path) -> None:
    made_alone = plans(configuration="3d_cascade_fullres", previous_stage="3d_lowres")
    results = results_folder(tmp_path, made_alone, dataset_json())
    with pytest.raises(BadInput, match="no nnUNetTrainer__nnUNetPlans__3d_lowres beside it"):
        import_model("nnunet", [results])


def test_parts_that_share_a_label_are_refused(tmp_path: Path) -> None:
    results = made(tmp_path)
    with pytest.raises(BadInput, match="'first' and 'again' both have a label 'organ'"):
        import_model("nnunet", [results], merge={"again": results})


# ---------------------------------------------------------------- what the card says


def test_the_card_says_where_the_model_comes_from(tmp_path: Path) -> None:
    results = made(tmp_path, folds=(0, 1), about=dataset_json(reference="a paper"))
    (results / "crossval_results_folds_0_1").mkdir()
    (results / "crossval_results_folds_0_1" / "postprocessing.pkl").write_bytes(
        b"\x80no pickle at all"
    )
    entry, notes = import_model("nnunet", [results], EntryOptions(tag="mine_v1"))
    card = entry.card()
    assert card.name == "unet3d.mine_v1"
    assert card.licence == "CC BY 4.0"
    assert card.card_version == 2
    assert card.training_data.cases == 7
    assert card.training_data.reference == "a paper"
    assert card.source is not None
    assert card.source.details["trainer"] == "nnUNetTrainer"
    assert card.source.details["folds"] == "0, 1"
    assert len(card.source.files_sha256) == 2
    assert "pickle" in card.source.left_out[0]
    assert any("--tta" in note for note in notes)
    assert any("pickle" in note for note in notes)
    readme = (entry.folder / "README.md").read_text()
    assert "nnUNetTrainer__nnUNetPlans__3d_fullres" in readme
    assert "not taken over" in readme


def write_fingerprint(results: Path, spacings: Any) -> None:
    (results / "dataset_fingerprint.json").write_text(json.dumps({"spacings": spacings}))


def test_the_card_knows_the_spacings_of_the_training_scans(tmp_path: Path) -> None:
    results = made(tmp_path)
    write_fingerprint(results, [[4.0, 0.7, 0.8], [3.0, 0.9, 0.8]])
    entry, _ = import_model("nnunet", [results])
    assert entry.card().training_scans == TrainingScans(
        spacing_min_zyx=(3.0, 0.7, 0.8), spacing_max_zyx=(4.0, 0.9, 0.8)
    )
    [file] = scan(tmp_path, "thin", (12, 20, 20), (0.8, 0.8, 0.2))
    with pytest.raises(BadInput, match="trained on scans of 3 to 4 x"):
        ctseg.load(entry.name, device="cpu").predict(ctseg.read(file))


@pytest.mark.parametrize("spacings", [None, [], "x", [[1.0, 1.0]], [[1, 1, 0]], [[1, "a", 1]], 3])
def test_a_fingerprint_that_lists_no_spacings_is_left_out(spacings: Any, tmp_path: Path) -> None:
    results = made(tmp_path)
    write_fingerprint(results, spacings)
    model = read_model(plugins.importer("nnunet"), [results], {})
    assert model.card.training_scans is None
    assert any("dataset_fingerprint.json" in note for note in model.notes)


def test_parts_that_saw_different_spacings_are_checked_by_their_own(tmp_path: Path) -> None:
    about = [dataset_json({"background": 0, name: 1}) for name in ("liver", "rib")]
    folders = [results_folder(tmp_path / str(i), plans(), about[i]) for i in range(2)]
    for folder, spacing in zip(folders, (1.0, 3.0), strict=True):
        write_fingerprint(folder, [[spacing] * 3])
    entry, _ = import_model(
        "nnunet", [folders[0]], EntryOptions(tag="whole"), merge={"chest": folders[1]}
    )
    card = entry.card()
    assert card.training_scans is not None
    assert card.training_scans.spacing_max_zyx == (3.0, 3.0, 3.0)
    assert [part.training_scans.spacing_max_zyx[0] for part in card.parts if part.training_scans] == [
        1.0, 3.0,
    ]  # fmt: skip


def test_postprocessing_is_read_from_json(tmp_path: Path) -> None:
    results = made(tmp_path)
    place = results / "crossval_results_folds_0"
    place.mkdir()
    name = "remove_all_but_largest_component_from_segmentation"
    content = {
        "postprocessing_fns": [name, name],
        "postprocessing_kwargs": [{"labels_or_regions": [1, 2]}, {"labels_or_regions": 2}],
    }
    (place / "postprocessing.json").write_text(json.dumps(content))
    rules = import_model("nnunet", [results])[0].card().predict.postprocess
    assert [(rule.names, rule.keep_largest) for rule in rules] == [
        (("organ", "lesion"), 1),
        (("lesion",), 1),
    ]


def test_a_rule_that_leaves_background_within_a_region_is_not_taken_over() -> None:
    names = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}
    task = task_of({"labels": names, "regions_class_order": [1, 3, 2]})
    rule = "remove_all_but_largest_component_from_segmentation"
    content = {"postprocessing_fns": [rule], "postprocessing_kwargs": [{"labels_or_regions": 2}]}
    with pytest.raises(BadInput, match="'tumor' into background, also within 'masses'"):
        postprocessing(content, task)
    content["postprocessing_kwargs"] = [{"labels_or_regions": [[1, 2, 3]]}]
    assert postprocessing(content, task)[0].names == ("kidney", "masses", "tumor")


def test_a_model_without_licence_asks_for_one(tmp_path: Path) -> None:
    about = {k: v for k, v in dataset_json().items() if k != "licence"}
    results = made(tmp_path, about=about)
    with pytest.raises(BadInput, match="licence") as found:
        import_model("nnunet", [results])
    assert "--licence" in str(found.value)
    entry, _ = import_model("nnunet", [results], EntryOptions(licence="CC0"))
    assert entry.card().licence == "CC0"


def test_training_without_mirroring_refuses_tta(tmp_path: Path) -> None:
    entry, notes = import_model("nnunet", [made(tmp_path, mirror_axes=None)])
    assert not any("--tta" in note for note in notes)
    with pytest.raises(BadInput, match="without mirroring"):
        ctseg.load(entry.name).with_settings(tta=True)


# ---------------------------------------------------------------- folders, folds, zips, the command line


def test_folds_and_checkpoints_are_chosen(tmp_path: Path) -> None:
    results = made(tmp_path, folds=(0, 1, "all"))
    (results / "fold_1" / "checkpoint_final.pth").rename(results / "fold_1" / "checkpoint_best.pth")
    runner = CliRunner()

    def names(tag: str, *options: str) -> list[str]:
        done = runner.invoke(
            app, ["zoo", "import", "nnunet", str(results), "--tag", tag, "--json", *options]
        )
        assert done.exit_code == 0, done.output
        return [member["file"] for member in json.loads(done.stdout)["card"]["members"]]

    assert names("a") == ["fold0.safetensors"]
    assert names("b", "--folds", "all") == ["foldall.safetensors"]
    assert names("c", "--checkpoint", "checkpoint_best.pth") == ["fold1.safetensors"]
    done = runner.invoke(app, ["zoo", "import", "nnunet", str(results), "--folds", "0,1"])
    assert done.exit_code == 2
    assert "fold_1/checkpoint_final.pth" in done.stderr
    assert "--folds" in done.stderr


def test_folds_behind_links_are_read(tmp_path: Path) -> None:
    results = made(tmp_path, folds=(0, 1))
    (results / "fold_1").rename(tmp_path / "job")
    (results / "fold_1").symlink_to(tmp_path / "job")
    (results / "elsewhere").symlink_to(tmp_path)
    members = import_model("nnunet", [results])[0].card().members
    assert [member.file for member in members] == ["fold0.safetensors", "fold1.safetensors"]


def test_a_dataset_folder_and_a_zip_of_it(tmp_path: Path) -> None:
    data = tmp_path / "Dataset900_Made"
    results_folder(data, plans(), dataset_json())
    results_folder(data, plans(**FLAT), dataset_json(), mirror_axes=(0, 1))
    packed = tmp_path / "exported.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(data.rglob("*")):
            archive.write(file, file.relative_to(tmp_path))
    for place in (data, packed):
        with pytest.raises(BadInput, match="2 trained models") as found:
            import_model("nnunet", [place])
        assert "--configuration" in str(found.value)
        with pytest.raises(BadInput, match="no configuration '3d_lowres'"):
            import_model("nnunet", [place], options={"configuration": "3d_lowres"})
    chosen = {"configuration": "2d"}
    one, _ = import_model("nnunet", [data], EntryOptions(tag="folder"), options=chosen)
    two, _ = import_model("nnunet", [packed], EntryOptions(tag="zip"), options=chosen)
    assert one.card().architecture == "unet2d"
    assert one.card().members == two.card().members


def test_predict_imports_on_the_way_once(tmp_path: Path) -> None:
    results = made(tmp_path)
    [file] = scan(tmp_path, "case", (16, 24, 24), (1, 1, 1))
    runner = CliRunner()
    outputs = []
    for number in range(2):
        target = tmp_path / f"mask{number}.nii.gz"
        done = runner.invoke(app, ["predict", str(file), "-m", str(results), "-o", str(target)])
        assert done.exit_code == 0, done.output
        outputs.append(done.stderr)
        assert target.is_file()
    assert "is imported once" in outputs[0]
    assert "was imported before" in outputs[1]
    assert len(list((tmp_path / "cache" / "imported").glob("unet3d.*"))) == 1
    assert not (tmp_path / "zoo").exists()


def test_an_unknown_importer_and_a_foreign_option_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["zoo", "import", "nnunett", str(tmp_path)])
    assert done.exit_code == 2
    assert "Did you mean 'nnunet'" in done.stderr
    done = CliRunner().invoke(app, ["zoo", "import", "nnunet", str(tmp_path), "--option", "x=1"])
    assert done.exit_code == 2
    assert "has no option 'x'" in done.stderr


# ---------------------------------------------------------------- what is refused, by name

CHANGES: dict[str, tuple[Any, str]] = {
    "network": (
        lambda p, c: c["architecture"].update(network_class_name="os.system"), "network os.system",
    ),
    "preprocessor": (lambda p, c: c.update(preprocessor_name="Evil"), "preprocessor 'Evil'"),
    "normalisation": (lambda p, c: c.update(normalization_schemes=["Evil"]), "normalisation 'Evil'"),
    "resampling": (lambda p, c: c.update(resampling_fn_data="evil"), "resampling of scans 'evil'"),
    "reader": (lambda p, c: p.update(image_reader_writer="EvilIO"), "reader 'EvilIO'"),
    "label manager": (lambda p, c: p.update(label_manager="Evil"), "label manager 'Evil'"),
    "cascade": (lambda p, c: c.update(previous_stage="3d_lowres"), "cascade"),
    "missing": (lambda p, c: c.pop("spacing"), "no 'spacing' in plans.json"),
    "patch": (lambda p, c: c.update(patch_size=[15, 24, 24]), "no multiple"),
    "circle": (lambda p, c: c.update(inherits_from="3d_fullres"), "inherit from itself"),
    "order": (
        lambda p, c: c["resampling_fn_data_kwargs"].update(order=2), "orders 2 and 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_plans_that_are_not_understood_are_refused_by_name(name: str, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    results = made(tmp_path)
    content = json.loads((results / "plans.json").read_text())
    change(content, content["configurations"]["3d_fullres"])
    (results / "plans.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        import_model("nnunet", [results])
    assert not list((tmp_path / "zoo").glob("unet3d*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resampling_fn_seg": "evil"}, "resampling of labels 'evil'"),
        ({"resampling_fn_seg_kwargs": {"is_seg": True, "order": 0}}, "labels of the first stage"),
        ({"resampling_fn_seg_kwargs": {"is_seg": False, "order": 1}}, "labels of the first stage"),
        (
            {"resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "force_separate_z": True}},
            "labels of the first stage",
        ),
    ],
)
def test_labels_between_the_stages_of_a_cascade_go_as_nnunet_takes_them(
    change: dict[str, Any], message: str
) -> None:
    """Without a first stage, nnU-Net resamples labels in training only."""
    made_alone = plans()
    settings = made_alone["configurations"]["3d_fullres"] | change
    assert steps_of(made_alone, settings, 1)
    with pytest.raises(BadInput, match=message):
        steps_of(made_alone, settings | {"previous_stage": "3d_lowres"}, 1)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    results = made(tmp_path)
    content = json.loads((results / "dataset.json").read_text())
    content["labels"]["third"] = 3
    (results / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"1 channels in and 3 out.*1 and 4"):
        import_model("nnunet", [results])


@pytest.mark.parametrize("file", ["plans.json", "dataset.json"])
def test_values_of_other_kinds_are_refused_in_plain_words(file: str, tmp_path: Path) -> None:
    """Every value in turn is one that nnU-Net never writes."""
    results = made(tmp_path)
    content = json.loads((results / file).read_text())

    def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return [way, *(place for key, inner in items for place in places(inner, (*way, key)))]
        return [way]

    for place in places(content)[1:]:
        for wrong in ("x", None, -1, [], {}, float("nan")):
            changed = json.loads(json.dumps(content))
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            (results / file).write_text(json.dumps(changed))
            with contextlib.suppress(CtsegError):  # anything else fails the test
                read_model(plugins.importer("nnunet"), [results], {})


def test_folds_may_be_named_as_nnunet_does(tmp_path: Path) -> None:
    results = made(tmp_path, folds=(0, 1))
    entry, _ = import_model("nnunet", [results], options={"folds": "0 1"})
    assert len(entry.card().members) == 2


def test_a_zip_that_leads_out_is_named_by_predict_too(tmp_path: Path) -> None:
    packed = tmp_path / "model.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../plans.json", "{}")
    done = CliRunner().invoke(app, ["predict", "x.nii.gz", "-m", str(packed), "-o", "y.nii.gz"])
    assert done.exit_code == 2
    assert "leads out of it" in done.stderr
