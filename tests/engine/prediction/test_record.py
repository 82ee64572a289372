"""`predictions.json`: what several processes write of one folder, and what it knows of each result."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.config import TaskConfig
from ctseg.engine.evaluation.matching import find_pairs
from ctseg.engine.inference.cascade import Cascade, CoarseModel
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.prediction.api import Segmenter
from ctseg.engine.prediction.folder import Listener, predict_folder
from ctseg.engine.prediction.inputs import find_items
from ctseg.engine.prediction.provenance import inputs_of, model_digest
from ctseg.engine.prediction.queue import Summary
from ctseg.engine.prediction.record import PredictionRecord
from ctseg.engine.prediction.request import Request
from ctseg.specs import ImageRef
from ctseg.temporary import held
from ctseg.volume.file_state import HASHED_BYTES, is_in_state, state_of
from tests.engine import small_model as small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small.scans(tmp_path / "in", 2)
    return tmp_path


def predict(
    folder: Path, model: Any = None, *, scans: str = "in", **options: Any
) -> tuple[Summary, list[str]]:
    told: list[str] = []
    summary = predict_folder(
        (model or small.small_model()).model,
        find_items([str(folder / scans)], channels=1),
        Request(folder / "out", skip_existing=True, **options),
        listener=Listener(on_say=told.append),
    )
    return summary, [line.split("anew: ")[1] for line in told if "predicted anew" in line]


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "predictions.json").read_text())
    return found


def write_lines(folder: Path, first: int, count: int) -> None:
    record = PredictionRecord(folder, small.small_model().model, Request(folder))
    for number in range(first, first + count):
        record.done({"case": f"scan{number}", "output": f"scan{number}.nii.gz"})
        record.failed(f"bad{number}", "it was damaged")
        record.write()


def test_processes_that_write_at_a_time_keep_each_others_lines(tmp_path):
    context = multiprocessing.get_context("fork")
    work = [context.Process(target=write_lines, args=(tmp_path, n, 40)) for n in (0, 100, 200)]
    for process in work:
        process.start()
    for process in work:
        process.join()
    assert [process.exitcode for process in work] == [0, 0, 0]
    told = json.loads((tmp_path / "predictions.json").read_text())
    expected = [n + k for n in (0, 100, 200) for k in range(40)]
    assert sorted(case["case"] for case in told["cases"]) == sorted(f"scan{n}" for n in expected)
    assert sorted(told["failed"]) == sorted(f"bad{n}" for n in expected)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]


def test_models_that_take_turns_keep_what_made_each_scan(tmp_path):
    one, two = small.small_model().model, small.small_model().with_settings(overlap=0.25).model
    records = [PredictionRecord(tmp_path, model, Request(tmp_path)) for model in (one, two)]
    for number, record in enumerate([*records, *records]):
        record.done({"case": f"scan{number}", "output": "x"})
        record.write()
    told = json.loads((tmp_path / "predictions.json").read_text())
    assert told["settings"]["overlap"] == 0.25
    made = {
        case["case"]: case.get("made_with", told)["settings"]["overlap"] for case in told["cases"]
    }
    assert made == {"scan0": 0.5, "scan1": 0.25, "scan2": 0.5, "scan3": 0.25}


def test_models_with_other_labels_keep_their_task(tmp_path):
    names = [{**label, "name": f"other {label['name']}"} for label in small.LABELS]
    task = TaskConfig.model_validate({"kind": "classes", "labels": names})
    one, two = (small.small_model(**given).model for given in ({}, {"task": task}))
    records = [PredictionRecord(tmp_path, model, Request(tmp_path)) for model in (one, two)]

    def tasks() -> dict[str, list[str]]:
        told = json.loads((tmp_path / "predictions.json").read_text())
        tasks = {c["case"]: c.get("made_with", {}).get("task", told["task"]) for c in told["cases"]}
        return {case: [label["name"] for label in t["labels"]] for case, t in tasks.items()}

    ours, theirs = [label["name"] for label in small.LABELS], [label["name"] for label in names]
    for number, record in enumerate([*records, *records]):
        record.done({"case": f"scan{number}", "output": "x"})
        record.write()
        assert tasks() == {f"scan{n}": theirs if n % 2 else ours for n in range(number + 1)}


def test_a_scan_is_judged_by_the_labels_that_were_asked_for(folder):
    predict(folder, scans="in/scan0.nii.gz", labels=("bright",))
    predict(folder, scans="in/scan1.nii.gz")
    found = find_pairs(folder / "out", folder / "out")
    assert [pair.drawn for pair in found.pairs] == [("bright",), None]
    assert found.labels is None


def test_what_another_process_made_later_stays(tmp_path):
    one, two = (
        PredictionRecord(tmp_path, small.small_model().model, Request(tmp_path)) for _ in range(2)
    )
    one.done({"case": "scan0", "output": "first"})
    one.write()
    two.done({"case": "scan0", "output": "second"})
    two.write()
    one.done({"case": "scan1", "output": "x"})
    one.write()
    told = json.loads((tmp_path / "predictions.json").read_text())
    assert {case["case"]: case["output"] for case in told["cases"]} == {
        "scan0": "second",
        "scan1": "x",
    }


def test_a_folder_that_a_training_keeps_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("ctseg.engine.prediction.record.PATIENCE", 0.05)
    with held(tmp_path):
        write_lines(tmp_path, 0, 1)
    assert (tmp_path / "predictions.json").is_file()


# ---------------------------------------------------------------- skipping


def test_what_would_be_made_again_is_skipped_and_nothing_else_is_said(folder):
    assert [case["case"] for case in predict(folder)[0].done] == ["scan0", "scan1"]
    assert document(folder)["cases"][0]["made_from"][0]["bytes"] == (
        (folder / "in" / "scan0.nii.gz").stat().st_size
    )
    summary, why = predict(folder)
    assert (summary.skipped, summary.done, why) == (["scan0", "scan1"], [], [])
    again = small.small_model().with_settings(batch_size=2)  # makes no other result
    assert predict(folder, again)[0].skipped == ["scan0", "scan1"]


def test_the_result_of_another_model_or_other_settings_is_made_anew(folder):
    predict(folder)
    other = small.small_model()
    next(other.model.networks[0].parameters()).data += 1e-3
    for model, reason in (
        (other, "the model small.v1 made it, which is not this one"),
        (other.with_settings(overlap=0.25), "it was made with overlap = 0.5 instead of 0.25"),
        (small.small_model(temperature=2.0), "the model small.v1 made it"),
    ):
        summary, why = predict(folder, model)
        assert len(summary.done) == 2
        assert len(why) == 2
        assert why[0].startswith(reason)
        assert predict(folder, model)[0].skipped == ["scan0", "scan1"]


def test_another_scan_of_the_name_is_made_anew(folder):
    predict(folder)
    ctseg.write(small.scan(7), folder / "in" / "scan0.nii.gz")
    summary, why = predict(folder)
    assert [case["case"] for case in summary.done] == ["scan0"]
    assert why == ["its scan has changed since, or is another one of that name."]
    (folder / "other").mkdir()
    for number, seed in enumerate((7, 8)):
        ctseg.write(small.scan(seed), folder / "other" / f"scan{number}.nii.gz")
        shutil.copystat(folder / "in" / "scan1.nii.gz", folder / "other" / f"scan{number}.nii.gz")
    summary, _ = predict(folder, scans="other")
    assert summary.skipped == ["scan0"]  # of the same content, wherever it lies
    assert [case["case"] for case in summary.done] == ["scan1"]


def test_a_scan_that_was_only_touched_is_skipped(folder):
    predict(folder)
    os.utime(folder / "in" / "scan0.nii.gz", (1, 1))
    assert predict(folder)[0].skipped == ["scan0", "scan1"]


def test_empty_unknown_and_missing_results_are_made_anew(folder):
    predict(folder)
    (folder / "out" / "scan0.nii.gz").write_bytes(b"")
    summary, why = predict(folder)
    assert ([case["case"] for case in summary.done], why) == (["scan0"], ["scan0.nii.gz is empty."])
    (folder / "out" / "predictions.json").unlink()
    summary, why = predict(folder)
    assert len(summary.done) == 2
    assert why == ["predictions.json does not say what made it."] * 2
    (folder / "out" / "scan1.nii.gz").unlink()
    summary, why = predict(folder)
    assert ([case["case"] for case in summary.done], why) == (["scan1"], [])


def test_a_result_that_something_else_wrote_stays_and_is_told_of(folder):
    predict(folder)
    out = folder / "out" / "scan0.nii.gz"
    corrected = dataclasses.replace(ctseg.read(out), array=np.ones_like(ctseg.read(out).array))
    ctseg.write(corrected, out)  # by hand, in an editor
    told: list[str] = []
    for model in (small.small_model(), small.small_model(temperature=2.0)):
        summary = predict_folder(
            model.model, find_items([str(folder / "in" / "scan0.nii.gz")], channels=1),
            Request(folder / "out", skip_existing=True), listener=Listener(on_say=told.append),
        )  # fmt: skip
        assert summary.skipped == ["scan0"]
        assert "something else wrote scan0.nii.gz" in told[-1]
    np.testing.assert_array_equal(ctseg.read(out).array, corrected.array)
    out.unlink()
    assert [case["case"] for case in predict(folder)[0].done] == ["scan0"]
    os.utime(out, (1, 1))  # as a copy has it
    assert predict(folder)[0].skipped == ["scan0", "scan1"]


def test_a_single_file_in_a_folder_with_a_record_is_recorded(folder):
    def alone(scan: str, name: str) -> None:
        request = Request(folder / "out" / name)
        predict_folder(other, find_items([str(folder / "in" / scan)], channels=1), request)

    predict(folder)
    other = small.small_model(temperature=2.0).model
    before = document(folder)
    alone(
        "scan0.nii.gz", "of_another_name.nii.gz"
    )  # which the line of scan0 would not name any more
    assert document(folder) == before
    alone("scan0.nii.gz", "scan0.nii.gz")
    lines = {case["case"]: case for case in document(folder)["cases"]}
    assert document(folder)["model_digest"] == model_digest(other)
    assert "made_with" not in lines["scan0"]
    assert lines["scan1"]["made_with"]["model_digest"] == before["model_digest"]
    summary, why = predict(folder)
    assert [case["case"] for case in summary.done] == ["scan0"]
    assert why[0].startswith("the model small.v1 made it, which is not this one")
    assert summary.skipped == ["scan1"]


def test_copies_of_a_volume_are_in_its_state(tmp_path):
    file = tmp_path / "a.mhd"
    sitk.WriteImage(sitk.GetImageFromArray(small.scan(0).array), str(file))  # and its data file
    before = state_of(file)
    for moved in (shutil.copy, shutil.copy2):
        other = tmp_path / moved.__name__
        other.mkdir()
        for part in tmp_path.glob("a.*"):
            moved(part, other)
        os.utime(other / "a.mhd", (1, 1))
        assert is_in_state(other / "a.mhd", before)
    data = next(part for part in tmp_path.glob("a.*") if part != file)
    data.write_bytes(data.read_bytes()[::-1])
    assert not is_in_state(file, before)
    assert not any(is_in_state(tmp_path / name, before) for name in ("copy", "none"))
    assert not any(is_in_state(file, state) for state in (None, 3, {}, {"bytes": 1}))


def test_models_that_look_at_another_part_make_another_result(folder):
    def looking(*regions: Any, margin_mm: float = 10.0) -> Any:
        model = small.small_model().model
        stage = CoarseModel(model, margin_mm=margin_mm)
        cascades = [Cascade(model, [stage], region=region) for region in regions]
        return Segmenter.of(Ensemble(cascades))

    part, other = ((0, 8), (0, 9), (0, 10)), ((2, 10), (0, 9), (0, 10))
    predict(folder, looking(part, part))
    assert predict(folder, looking(part, part))[0].skipped == ["scan0", "scan1"]
    changed = (looking(other, other), looking(part, other), looking(part, part, margin_mm=2.0))
    for model in changed:
        summary, why = predict(folder, model)
        assert (summary.skipped, len(summary.done)) == ([], 2)
        assert why[0].startswith("it was made with members = ")


def test_what_lies_beside_must_be_of_the_same_call(folder):
    predict(folder, confidence=True)
    predict(folder, small.small_model(temperature=2.0))  # the map anew, the confidence as it was
    summary, why = predict(folder, small.small_model(temperature=2.0), confidence=True)
    assert len(summary.done) == 2
    assert why[0] == "its output of confidence was made by another call."


def test_another_way_of_reading_is_another_scan(folder):
    command = ["predict", str(folder / "in"), "-o", str(folder / "out"), "--skip-existing", "-m"]
    command.append(str(small.write_model(folder / "small.safetensors")))
    assert CliRunner().invoke(app, command).exit_code == 0
    result = CliRunner().invoke(app, [*command, "--option", "spacing=1,1,2"])
    assert "predicted anew: its scan was read with other options." in " ".join(
        result.stderr.split()
    )
    assert ctseg.read(folder / "out" / "scan0.nii.gz").geometry.spacing_xyz == (1, 1, 2)


def test_a_single_file_is_skipped_by_a_record_too(folder):
    out = folder / "masks" / "one.nii.gz"
    command = ["predict", str(folder / "in" / "scan0.nii.gz"), "-o", str(out), "-m"]
    command.append(str(small.write_model(folder / "small.safetensors")))
    assert CliRunner().invoke(app, command).exit_code == 0
    assert [path.name for path in out.parent.iterdir()] == [
        "one.nii.gz"
    ]  # nobody asked for a record
    result = CliRunner().invoke(app, [*command, "--skip-existing"])
    assert "does not say what made it" in " ".join(result.stderr.split())
    result = CliRunner().invoke(app, [*command, "--skip-existing", "--json"])
    assert json.loads(result.stdout)["skipped"] == ["scan0"]


def test_a_record_of_an_earlier_version_is_believed(folder):
    predict(folder)
    told = document(folder)
    for name in ("model_digest", "providers"):
        del told[name]
    for case in told["cases"]:
        del case["made_from"]
    (folder / "out" / "predictions.json").write_text(json.dumps(told))
    assert predict(folder)[0].skipped == ["scan0", "scan1"]
    (folder / "out" / "predictions.json").write_text(json.dumps(told))
    later = (folder / "out" / "scan0.nii.gz").stat().st_mtime + 10
    os.utime(folder / "in" / "scan0.nii.gz", (later, later))
    summary, why = predict(folder)
    assert why == ["its scan was written anew since."]
    assert summary.skipped == ["scan1"]


def test_folders_are_told_apart_by_all_their_files(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    for number in range(3):
        (series / f"{number}.dcm").write_bytes(bytes([number]) * 100)
    before = inputs_of([ImageRef(series)])
    assert before == inputs_of([ImageRef(series)])
    assert before[0]["bytes"] == 300
    (series / "1.dcm").write_bytes(bytes([9]) * 100)
    assert inputs_of([ImageRef(series)])[0]["digest"] != before[0]["digest"]
    (series / "1.dcm").rename(series / "3.dcm")
    assert len({d[0]["digest"] for d in (before, inputs_of([ImageRef(series)]))}) == 2


def test_huge_scans_are_told_apart_by_their_ends(tmp_path):
    file = tmp_path / "huge.raw"
    with file.open("wb") as sparse:
        sparse.truncate(HASHED_BYTES + 10)
    before = inputs_of([ImageRef(file)])  # without reading 8 GiB
    with file.open("rb+") as sparse:
        sparse.seek(HASHED_BYTES)
        sparse.write(b"x")
    assert inputs_of([ImageRef(file)])[0]["digest"] != before[0]["digest"]


def test_a_digest_knows_every_model_of_several():
    one, two = small.small_model().model, small.small_model(temperature=2.0).model
    found = [
        model_digest(model)
        for model in (
            one, two, Ensemble([one, two]), Ensemble([one, one]), Cascade(one, [CoarseModel(two)]),
            Cascade(one, [CoarseModel(one)]),
        )
    ]  # fmt: skip
    assert (
        len(set(found)) == len(found) - 1
    )  # the mean of a model with itself, or within itself, is its parts
    assert model_digest(one) == model_digest(small.small_model().model)


# ---------------------------------------------------------------- damaged records


@pytest.mark.parametrize(
    "content",
    [
        b'{"cases": [{"no": 1', b"\xff\xfe\x00damaged", b'{"cases": 5}', b'{"cases": [7]}', b"[]",
        b'{"cases": [{"case": 3, "output": 4}]}', b'{"failed": [1, 2]}', b"[" * 100_000, b"",
    ],
)  # fmt: skip
def test_a_damaged_record_is_put_aside_with_a_word(folder, content):
    (folder / "out").mkdir()
    (folder / "out" / "predictions.json").write_bytes(content)
    command = ["predict", str(folder / "in" / "scan0.nii.gz"), "-o", str(folder / "out"), "-m"]
    command.append(str(small.write_model(folder / "small.safetensors")))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "is damaged" in said
    assert "kept as predictions.json.damaged" in said
    assert (folder / "out" / "predictions.json.damaged").read_bytes() == content
    assert [case["case"] for case in document(folder)["cases"]] == ["scan0"]


@pytest.mark.parametrize(
    "line",
    [
        {"output": 4}, {"output": None, "made_from": 3}, {"output": "scan0.nii.gz", "made_with": 7},
        {"output": "scan0.nii.gz", "made_from": [3]}, {"output": "scan0.nii.gz", "beside": 4, "made_from": {}},
        {"output": "scan0.nii.gz", "made_from": [{"bytes": "x", "options": 3}], "input": 4},
    ],
)  # fmt: skip
def test_lines_that_hold_something_else_make_a_scan_anew(folder, line):
    predict(folder)
    told = document(folder)
    told["cases"][0] = {"case": "scan0", **line}
    (folder / "out" / "predictions.json").write_text(json.dumps(told))
    summary, why = predict(folder)
    assert [case["case"] for case in summary.done] == ["scan0"]
    assert len(why) == 1


def test_a_damaged_record_keeps_evaluate_from_nothing_but_a_clear_answer(folder):
    predict(folder)
    for content in (b"\xff\xfe{", b"{", b'{"task": 5}', b"[" * 100_000):
        (folder / "out" / "predictions.json").write_bytes(content)
        result = CliRunner().invoke(app, ["evaluate", str(folder / "out"), str(folder / "out")])
        assert result.exit_code == 2, (content[:20], result.stdout, result.stderr)
        assert "predictions.json" in result.stderr.replace("\n", "")
        assert "Internal" not in result.stderr


def test_results_are_the_same_whatever_was_skipped(folder):
    predict(folder)
    (folder / "out" / "scan0.nii.gz").unlink()
    predict(folder)
    expected = small.small_model().predict(small.scan(0)).array
    np.testing.assert_array_equal(ctseg.read(folder / "out" / "scan0.nii.gz").array, expected)
