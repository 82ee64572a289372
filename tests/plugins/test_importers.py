"""An importer that a package brings: by command, by path, and with its own options."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg import plugins
from ctseg.cli.app import app

PLUGIN = '''
import json
from pathlib import Path

from ctseg.hookspecs import hookimpl
from ctseg.importer_specs import ImportedModel, ImportedWeights, ImporterSpec


def recognise(path):
    return path.suffix == ".toy"


def read(paths, *, label="organ"):
    from ctseg import plugins
    from ctseg.card import Card, Provider, Source, TrainingData
    from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
    from ctseg.task import classes_task

    width = json.loads(paths[0].read_text())["width"]
    spec = plugins.architecture("unet3d")
    options = {"features": [width, 2 * width]}
    net = spec.build(plugins.make_config(spec, options), in_channels=1, out_channels=2)
    card = Card(
        card_version=2, architecture="unet3d", options=options, provider=Provider(package="ctseg"),
        in_channels=1, out_channels=2, channels=("CT",), task=TaskConfig.of(classes_task({label: 1})),
        preprocess=PreprocessConfig(), predict=PredictConfig(tile_zyx=(8, 8, 8)),
        training_data=TrainingData(name="Toys", licence="CC0"), licence="CC0",
        source=Source(importer="toy", name=paths[0].name),
    )
    return ImportedModel(card, [ImportedWeights("weights", net.state_dict())], "toy", ("A toy.",))


@hookimpl
def ctseg_importers():
    """Toys."""
    return [ImporterSpec("toy", recognise, read, "toys", options={"label": "its name"})]
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
    from ctseg.zoo.load import load

    assert load(model, on_note=notes.append).card.task.labels[1].name == "organ"
    assert "is imported once" in notes[0]


def test_a_plugin_shows_what_it_imports() -> None:
    rows = json.loads(CliRunner().invoke(app, ["plugins", "list", "--json"]).stdout)
    assert {"importer": ["toy"]} in [row["provides"] for row in rows]
