"""What users get wrong: one clear message, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from tests.rights import permissions_count


@pytest.fixture
def spoilt(mini_set: Path, tmp_path: Path) -> Path:
    """A copy of the mini data set, to be damaged."""
    return Path(shutil.copytree(mini_set, tmp_path / "Spoilt"))


def refuse(*arguments: object, says: str, output: Path | None = None, code: int = 2) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    text = " ".join(result.stderr.split())
    assert result.exit_code == code, result.output
    assert text.count("Error") == 1, text
    assert "Traceback" not in text
    assert says in text, text
    if output is not None:
        assert not output.exists(), list(output.rglob("*")) if output.is_dir() else output
    return text


def train(data: Path, out: Path, options: list[str], *more: str) -> list[object]:
    return ["train", data, "-o", out, "--steps", "2", *options, *more]


def image(folder: Path, kind: str, index: int) -> Path:
    return folder / f"{kind}Tr" / f"mini_{index}.nii.gz"


def test_missing_data_set(tmp_path, mini_options):
    out = tmp_path / "run"
    refuse(*train(tmp_path / "nowhere", out, mini_options), says="does not exist", output=out)


def test_missing_image(spoilt, tmp_path, mini_options):
    image(spoilt, "images", 3).unlink()
    out = tmp_path / "run"
    refuse(*train(spoilt, out, mini_options), says="mini_3", output=out)


def test_truncated_image(spoilt, tmp_path, mini_options):
    path = image(spoilt, "images", 3)
    path.write_bytes(path.read_bytes()[:-2000])
    out = tmp_path / "run"
    refuse(*train(spoilt, out, mini_options), says="mini_3.nii.gz", output=out)


def test_label_of_another_shape(spoilt, tmp_path, mini_options):
    label = ctseg.read(image(spoilt, "labels", 2))
    smaller = label.geometry.sub((0, 0, 0), (11, 20, 22))
    ctseg.write(ctseg.Volume(label.array[:-1], smaller), image(spoilt, "labels", 2))
    out = tmp_path / "run"
    refuse(*train(spoilt, out, mini_options), says="same grid: shape", output=out)


def test_label_of_another_geometry(spoilt, tmp_path, mini_options):
    label = ctseg.read(image(spoilt, "labels", 2))
    moved = ctseg.Volume.from_array(label.array, spacing_xyz=(1.0, 1.1, 2.2))
    ctseg.write(moved, image(spoilt, "labels", 2))
    out = tmp_path / "run"
    refuse(*train(spoilt, out, mini_options), says="same grid: spacing", output=out)


def test_label_value_beyond_the_classes(spoilt, tmp_path, mini_options):
    label = ctseg.read(image(spoilt, "labels", 2))
    label.array[0, 0, 0] = 7
    ctseg.write(label, image(spoilt, "labels", 2))
    out = tmp_path / "run"
    refuse(*train(spoilt, out, mini_options), says="label value 7", output=out)


def test_a_bad_validation_case_is_refused_before_anything_is_written(
    spoilt, tmp_path, mini_options
):
    label = ctseg.read(image(spoilt, "labels", 5))
    label.array[0, 0, 0] = 7
    ctseg.write(label, image(spoilt, "labels", 5))
    out = tmp_path / "run"
    for fold in range(5):
        refuse(
            *train(spoilt, out, mini_options, "--fold", str(fold)), says="label value 7", output=out
        )


def test_empty_data_set(spoilt, tmp_path, mini_options):
    document = json.loads((spoilt / "dataset.json").read_text())
    (spoilt / "dataset.json").write_text(json.dumps({**document, "training": []}))
    out = tmp_path / "run"
    refuse(*train(spoilt, out, mini_options), says="Spoilt", output=out)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["-a", "unet3f"], "Did you mean 'unet3d'?"),
        (["--loss", "dice_cd"], "Did you mean 'dice_ce'?"),
        (["--set", "train.epoch=3"], "Did you mean 'train.epochs'?"),
        (["--set", "model.options.featurs=[4]"], "Did you mean 'features'?"),
        (["--set", "nothing"], "KEY=VALUE"),
        (["--loss", "bce"], "does not serve the task"),
        (["--patch", "8,8"], "three numbers"),
        (["--patch", "8,15,16"], "multiples of"),
        (["--device", "gpu"], "device"),
        (["--set", "train.optimizer=adamx"], "optimizer"),
        (["--set", "train.time=soon"], "duration"),
        (["--fold", "9"], "fold"),
        (["--reader", "decatlon"], "Did you mean 'decathlon'?"),
        (["--set", "train.label_probabilities={lver=1}"], "lver"),
        (["--set", "preprocess.steps=[{kind='resampel'}]"], "Did you mean 'resample'?"),
        (
            ["--set", "predict.postprocess=[{label='brik', keep_largest=1}]"],
            "Did you mean 'brick'?",
        ),
        (["--epochs", "3"], "both say how long"),
        (
            ["--set", "preprocess.spacing_xyz=[3, 3, 3]", "--set", "data.prepare=lazy"],
            "by region",
        ),
    ],
)
def test_bad_options(mini_set, tmp_path, mini_options, option, says):
    out = tmp_path / "run"
    refuse(*train(mini_set, out, mini_options, *option), says=says, output=out)


def test_a_run_file_with_a_misspelt_key(mini_set, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(f'[data]\npath = "{mini_set}"\n[train]\nstep = 3\n')
    refuse("train", file, "-o", tmp_path / "run", says="Did you mean 'train.steps'?")
    file.write_text("[data\n")
    refuse("train", file, says="TOML")


def test_no_length_is_given(mini_set, tmp_path):
    refuse("train", mini_set, "-o", tmp_path / "run", says="--time 30m")


def test_an_output_that_is_taken(mini_set, mini_run, mini_options, tmp_path):
    before = (mini_run / "best.safetensors").read_bytes()
    refuse(*train(mini_set, mini_run, mini_options), says="--resume")
    assert (mini_run / "best.safetensors").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    refuse(*train(mini_set, tmp_path, mini_options, "--overwrite"), says="not empty")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_output_that_cannot_be_written(mini_set, mini_run, mini_options, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("x")
    refuse(*train(mini_set, blocker / "run", mini_options), says="cannot be written")
    scan = image(mini_set, "images", 0)
    refuse("predict", scan, "-m", mini_run, "-o", blocker / "mask.nii.gz", says="cannot be written")
    refuse("predict", scan, "-m", mini_run, "-o", tmp_path / "mask.docx", says="suffix")


def test_resuming_what_is_no_run(tmp_path):
    refuse("train", "--resume", "-o", tmp_path, says="no run folder")
    refuse("train", "--resume", says="Which run")
    refuse("train", "--resume", "-o", tmp_path, "--lr", "1", says="cannot be changed")
    refuse("train", "data", "--resume", "-o", tmp_path, says="data has no effect")
    refuse("train", "--resume", "-o", tmp_path, "--overwrite", says="contradict")


def test_predict_refuses(mini_set, mini_run, tmp_path):
    out = tmp_path / "out.nii.gz"
    scan = image(mini_set, "images", 0)
    refuse("predict", tmp_path / "no.nii.gz", "-m", mini_run, "-o", out, says="exist", output=out)
    refuse("predict", scan, "-m", "unet3d.nothing", "-o", out, says="Unknown model", output=out)
    refuse(
        "predict", scan, "-m", mini_run, "-o", out, "--labels", "bricks",
        says="Did you mean 'brick'?", output=out,
    )  # fmt: skip
    refuse("predict", scan, "-m", mini_run, "-o", out, "--overlap", "1", says="overlap")
    alone = ("--probabilities-format", ".zarr")
    refuse(
        "predict",
        scan,
        "-m",
        mini_run,
        "-o",
        out,
        *alone,
        says="has no effect without --probabilities",
    )
    refuse("predict", scan, "-m", mini_run, "-o", out, "--tta", says="without mirroring")
    for option, value in (("--margin", "5"), ("--coarse-labels", "box")):
        refuse("predict", scan, "-m", mini_run, "-o", out, option, value, says="--coarse NAME")
    refuse("predict", scan, "-m", mini_run, "-o", out, "--tile", "0,8,8", says="positive")
    refuse("predict", scan, "-m", mini_run, "-o", out, "--skip-air", "nan", says="air cannot")
    refuse("predict", scan, "-m", mini_run, "-o", out, "--labels", ",", says="names no label")
    refuse("predict", scan, "-m", mini_run, "-o", out, "--zoo", tmp_path / "z", says="not exist")
    refuse("predict", scan, "-m", mini_run, "-o", scan, says="would replace the scan")
    both = f"{scan},{image(mini_set, 'images', 1)}"
    refuse("predict", both, "-m", mini_run, "-o", out, says="channel", output=out)
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse("predict", empty, "-m", mini_run, "-o", out, says="holds no scans", output=out)


def test_a_truncated_scan_leaves_no_mask(spoilt, mini_run, tmp_path):
    path = image(spoilt, "images", 0)
    path.write_bytes(path.read_bytes()[:1500])
    out = tmp_path / "mask.nii.gz"
    refuse("predict", path, "-m", mini_run, "-o", out, says="mini_0", output=out)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_one_bad_scan_among_several_costs_itself_alone(spoilt, mini_run, tmp_path):
    path = image(spoilt, "images", 4)
    path.write_bytes(b"no scan at all")
    out = tmp_path / "out"
    arguments = ["predict", str(spoilt / "imagesTr"), "-m", str(mini_run), "-o", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "mini_4" in result.stderr
    assert len(list(out.glob("*.nii.gz"))) == 7
    document = json.loads((out / "predictions.json").read_text())
    assert len(document["cases"]) == 7
    assert list(document["failed"]) == ["mini_4"]
    shutil.copy(image(spoilt, "images", 3), path)
    before = {p: p.stat().st_mtime_ns for p in out.glob("*.nii.gz")}
    result = CliRunner().invoke(app, [*arguments, "--skip-existing", "--json"])
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["skipped"]) == 7
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert len(json.loads((out / "predictions.json").read_text())["cases"]) == 8


def test_an_entry_whose_checksum_is_wrong(mini_set, mini_run, tmp_path):
    zoo = tmp_path / "zoo"
    publish = ["zoo", "publish", str(mini_run), "--tag", "v1", "--zoo", str(zoo), "--no-measure"]
    assert CliRunner().invoke(app, publish).exit_code == 0
    weights = next(zoo.rglob("weights*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-5] ^= 0xFF
    weights.write_bytes(bytes(data))
    out = tmp_path / "mask.nii.gz"
    refuse(
        "predict", image(mini_set, "images", 0), "-m", "unet3d.v1", "--zoo", zoo, "-o", out,
        says="checksum", output=out,
    )  # fmt: skip


def test_a_folder_without_permission(mini_set, mini_options, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with permissions_count():
        refuse(*train(mini_set, locked / "run", mini_options), says="cannot be written")
    assert not any(locked.iterdir())


def test_a_scan_with_nan_is_refused(mini_run, tmp_path):
    array = np.zeros((12, 20, 22), np.float32)
    array[3, 3, 3] = np.nan
    scan, out = tmp_path / "nan.nii.gz", tmp_path / "mask.nii.gz"
    ctseg.write(ctseg.Volume.from_array(array), scan)
    refuse("predict", scan, "-m", mini_run, "-o", out, says="NaN", output=out)


def test_all_folds_in_several_processes_are_refused(mini_set, mini_options, tmp_path, monkeypatch):
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "run"
    command = [*train(mini_set, out, mini_options), "--fold", "all"]
    refuse(*command, says="without torchrun", output=out)
