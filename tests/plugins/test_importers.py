"""An importer that a package brings: by command, by path, and with its own options."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg import plugins
from ctseg.cli.app import app
from ctseg.zoo.importers import entry
from ctseg.zoo.load import load

PLUGIN = '''
import json
from pathlib import Path

from ctseg.hookspecs import hookimpl
from ctseg.importer_specs import ImportedModel, ImportedWeights, ImporterSpec


def recognise(path):
    return path.suffix == ".toy"


def beside(path):
    return [file for file in [path.with_suffix(".before")] if file.is_file()]


def read(paths, *, label="organ"):
    from ctseg import plugins
    from ctseg.card import Card, Provider, Source, TrainingData
    from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
    from ctseg.task import classes_task

    about = json.loads(paths[0].read_text())
    width, licence, tag = about["width"], about.get("licence", "CC0"), paths[0].suffix[1:]
    first = next((read([file]) for file in beside(paths[0])), None) if tag == "toy" else None
    label = about.get("label", label)
    spec = plugins.architecture("unet3d")
    options = {"features": [width, 2 * width]}
    net = spec.build(plugins.make_config(spec, options), in_channels=2 if first else 1, out_channels=2)
    card = Card(
        card_version=2, architecture="unet3d", options=options, provider=Provider(package="ctseg"),
        in_channels=1, out_channels=2, channels=("CT",), task=TaskConfig.of(classes_task({label: 1})),
        preprocess=PreprocessConfig(), predict=PredictConfig(tile_zyx=(8, 8, 8)),
        training_data=TrainingData(name=about.get("data", "Toys"), licence=licence), licence=licence,
        source=Source(importer="toy", name=paths[0].name),
    )
    weights = [ImportedWeights("weights", net.state_dict())]
    return ImportedModel(card, weights, tag, ("A toy.",), first)


@hookimpl
def ctseg_importers():
    """Toys."""
    return [ImporterSpec("toy", recognise, read, "toys", options={"label": "its name"}, beside=beside)]
'''


@pytest.fixture(autouse=True)
def with_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "toy_importer.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CTSEG_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))
    points = [
        importlib.metadata.EntryPoint(name, module, plugins.ENTRY_POINT_GROUP)
        for name, module in (("builtin", plugins.BUILTIN), ("toy", "toy_importer"))
    ]
    registry = plugins.Registry(points)
    monkeypatch.setattr(plugins, "registry", lambda: registry)
    yield
    sys.modules.pop("toy_importer", None)


def test_a_plugin_imports_by_command_and_by_path(tmp_path: Path) -> None:
    model = tmp_path / "model.toy"
    model.write_text(json.dumps({"width": 2}))
    runner = CliRunner()
    done = runner.invoke(
        app, ["zoo", "import", "toy", str(model), "--option", "label=heart", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["name"] == "unet3d.toy"
    assert found["notes"] == ["A toy."]
    assert found["card"]["task"]["labels"][1]["name"] == "heart"
    volume = ctseg.Volume.from_array(np.zeros((8, 8, 8), np.float32))
    assert ctseg.load("unet3d.toy").predict(volume).array.shape == (8, 8, 8)
    done = runner.invoke(app, ["zoo", "import", "toy", str(model), "--folds", "0"])
    assert done.exit_code == 2
    assert "'toy' has no option 'folds'" in done.stderr
    notes: list[str] = []
    assert load(model, on_note=notes.append).card.task.labels[1].name == "organ"
    assert "is imported once" in notes[0]


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    """A model behind another one, which lies beside it."""
    (tmp_path / "model.before").write_text(json.dumps({"width": 2}))
    (tmp_path / "model.toy").write_text(json.dumps({"width": 2}))
    return tmp_path / "model.toy"


def test_a_cascade_of_which_only_the_first_stage_was_imported_is_imported(
    cascade: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = entry.put_in_place

    def killed(*args: Any) -> None:
        put(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(entry, "put_in_place", killed)
        with pytest.raises(KeyboardInterrupt):
            load(cascade)
    (alone,) = (cascade.parent / "cache" / "imported").glob("unet3d.*")
    assert alone.name.endswith("_first")
    notes: list[str] = []
    for _ in range(2):
        assert load(cascade, on_note=notes.append).card.stages[0].model == alone.name
    assert "is imported once" in notes[0] and "was imported before" in notes[-1]


def test_a_cascade_is_imported_again_when_its_first_stage_changes(cascade: Path) -> None:
    before = load(cascade).card.stages[0].model
    cascade.with_suffix(".before").write_text(json.dumps({"width": 4, "licence": "CC0"}))
    assert load(cascade).card.stages[0].model != before


def test_a_cascade_that_cannot_be_imported_leaves_nothing(cascade: Path) -> None:
    cascade.write_text(json.dumps({"width": 2, "licence": ""}))
    done = CliRunner().invoke(app, ["zoo", "import", "toy", str(cascade)])
    assert done.exit_code == 2 and "--licence" in done.stderr
    assert not list((cascade.parent / "zoo").glob("*"))
    done = CliRunner().invoke(app, ["zoo", "import", "toy", str(cascade), "--licence", "MIT"])
    assert done.exit_code == 0, done.output
    names = {path.name for path in (cascade.parent / "zoo").glob("unet3d.*")}
    assert names == {"unet3d.toy", "unet3d.before"}


def test_parts_name_all_their_licences_and_data(tmp_path: Path) -> None:
    for name, about in (("organs", {}), ("ribs", {"label": "rib", "data": "Ribs"})):
        (tmp_path / f"{name}.toy").write_text(json.dumps({"width": 2, **about}))
    command = ["zoo", "import", "toy", str(tmp_path / "organs.toy"), "--json", "--overwrite"]
    command += ["--merge", f"ribs={tmp_path / 'ribs.toy'}", "--tag", "whole"]

    def card(*more: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*command, *more])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)["card"]
        return found

    assert card()["licence"] == "CC0"
    about = {"width": 2, "label": "rib", "data": "Ribs", "licence": "CC BY 4.0"}
    (tmp_path / "ribs.toy").write_text(json.dumps(about))
    found = card()
    assert found["licence"] == found["training_data"]["licence"] == "CC0; CC BY 4.0"
    assert found["training_data"]["name"] == "Toys, Ribs"
    assert found["attribution"] == "Derived from Toys (CC0). Derived from Ribs (CC BY 4.0)."
    (tmp_path / "ribs.toy").write_text(json.dumps(about | {"licence": ""}))
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "Ribs names none" in done.stderr and "--licence" in done.stderr
    found = card("--licence", "MIT")
    assert found["licence"] == "MIT" and found["training_data"]["licence"] == ""


def test_a_plugin_shows_what_it_imports() -> None:
    rows = json.loads(CliRunner().invoke(app, ["plugins", "list", "--json"]).stdout)
    assert {"importer": ["toy"]} in [row["provides"] for row in rows]
