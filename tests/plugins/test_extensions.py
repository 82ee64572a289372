"""A plugin with a metric, a step, an augmentation and a command, from its hooks to what a user sees."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ctseg
from ctseg import plugins
from ctseg.card import Provider
from ctseg.cli.app import app
from ctseg.config import AugmentConfig, PreprocessConfig, RunConfig, dump_config, parse_config
from ctseg.config.augment import PROBABILITIES
from ctseg.data.loading import Recipe, augment
from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import foreign_steps
from ctseg.data.store import Store
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.build import installed_providers
from ctseg.engine.model.weights import save_weights
from ctseg.engine.training.run import check_names
from ctseg.errors import (
    ConfigError,
    CtsegWarning,
    NameClash,
    PluginError,
    UnknownName,
)
from ctseg.specs import Task
from ctseg.task import classes_task
from tests.engine import small_model as small
from tests.plugins.test_manager import install

PLUGIN = '''
from dataclasses import dataclass, field

import ctseg
from ctseg.extension_specs import AugmentationSpec, CommandSpec, MetricSpec, StepSpec

ctseg_contract = ">=1,<2"


def voxel_ratio(pair):
    return int(pair.predicted.sum()) / int(pair.reference.sum())


@ctseg.hookimpl
def ctseg_metrics():
    return [MetricSpec("voxel_ratio", "ratio", "toys", None, -1.0, voxel_ratio, "voxels over voxels")]


def load_step():
    from typing import ClassVar
    import numpy as np
    from ctseg.data.steps import OnValues

    @dataclass(frozen=True)
    class Power(OnValues):
        """Raise values to a power."""
        kind: ClassVar[str] = "power"
        exponent: float = 2.0

        def image(self, image_czyx, geometry, record):
            return np.sign(image_czyx) * np.abs(image_czyx).astype(np.float32) ** self.exponent

    return Power


@ctseg.hookimpl
def ctseg_steps():
    return [StepSpec("power", load_step, "a power of the values")]


@dataclass(frozen=True)
class BlankConfig:
    value: float = field(default=0.0, metadata={"help": "put everywhere"})


def build_blank(config):
    def blank(image, target, *, rng, spacing_zyx):
        return image.fill_(config.value + rng.random()), target
    return blank


@ctseg.hookimpl
def ctseg_augmentations():
    return [AugmentationSpec("blank", build_blank, BlankConfig, "nothing is left")]


def load_command():
    def greet(name: str, loud: bool = False) -> None:
        """Greet somebody."""
        from ctseg.errors import BadInput
        if name == "nobody":
            raise BadInput("Nobody is there.", hint="Name somebody.")
        print(f"hello {name}".upper() if loud else f"hello {name}")
    return greet


@ctseg.hookimpl
def ctseg_commands():
    return [CommandSpec("greet", load_command, "Greet somebody by name.")]
'''
runner = CliRunner()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the plugin; the registry is made anew, and forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    install(folder, "toy-tools", PLUGIN)
    plugins.registry.cache_clear()
    yield folder
    plugins.registry.cache_clear()
    for name in ("toy_tools", "other_tools", "old_tools"):
        sys.modules.pop(name, None)


def error_of(package: str) -> str:
    plugins.registry.cache_clear()
    registry = plugins.registry()
    for kind in plugins.LISTINGS:
        registry.entries(kind)
    return str(next(p.error for p in registry.plugins if p.package == package))


def maps(folder: Path) -> tuple[Path, Path]:
    one, two = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    one[:2], two[0] = 1, 1
    two[3] = 2  # missed
    files = folder / "one.nii.gz", folder / "two.nii.gz"
    for array, file in zip((one, two), files, strict=True):
        ctseg.write(ctseg.Volume.from_array(array), file)
    return files


# ---------------------------------------------------------------- metrics


def test_a_metric_stands_in_tables_and_json(site: Path, tmp_path: Path) -> None:
    one, two = map(str, maps(tmp_path))
    done = runner.invoke(app, ["evaluate", one, two, "--metrics", "dice,toys", "--json"])
    assert done.exit_code == 0, done.output
    labels = json.loads(done.stdout)["labels"]
    assert labels["1"]["voxel_ratio"] == 2.0
    assert labels["2"]["voxel_ratio"] == -1.0  # the worst value of a missed label
    done = runner.invoke(app, ["evaluate", one, two, "--metrics", "voxel_ratio"])
    assert "ratio" in done.stdout
    assert "2.0000" in done.stdout
    report = ctseg.evaluate(one, two, metrics="voxel_ratio")
    assert type(report).from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("return 'one'", "returned str, not a number or None"),
        ("return 1 / 0", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_metric_that_fails_names_its_plugin(
    site: Path, tmp_path: Path, body: str, complaint: str
) -> None:
    text = PLUGIN.replace("return int(pair.predicted.sum()) / int(pair.reference.sum())", body)
    (site / "toy_tools.py").write_text(text)
    done = runner.invoke(app, ["evaluate", *map(str, maps(tmp_path)), "--metrics", "voxel_ratio"])
    assert done.exit_code == 2
    assert "`measure` of the metric 'voxel_ratio' from the plugin toy-tools 1.2" in done.stderr
    assert complaint in done.stderr


def test_metrics_that_are_no_numbers_are_left_out(site: Path, tmp_path: Path) -> None:
    text = PLUGIN.replace("return int(pair.predicted", "return float('inf') * int(pair.predicted")
    (site / "toy_tools.py").write_text(text)
    report = ctseg.evaluate(*maps(tmp_path), metrics="voxel_ratio")
    assert report.by_label("voxel_ratio") == {"2": -1.0}


# ---------------------------------------------------------------- steps

POWER = PreprocessConfig(steps=({"kind": "orient"}, {"kind": "power", "exponent": 3.0}))


def test_a_step_is_applied_and_its_plugin_known(site: Path, tmp_path: Path) -> None:
    scan = np.full((1, 2, 2, 2), -2.0, np.float32)
    image, _ = Pipeline.of(POWER).image(scan, ctseg.Volume.from_array(scan[0]).geometry)
    assert (image == -8).all()
    assert {kind: plugin.owner for kind, plugin in foreign_steps(POWER).items()} == {
        "power": "toy-tools 1.2"
    }
    check_names(RunConfig(preprocess=POWER))
    with pytest.raises(ConfigError, match="Did you mean 'exponent'"):
        Pipeline.of(PreprocessConfig(steps=({"kind": "power", "exponents": 1},)))


def test_prepared_cases_of_another_version_are_made_anew(site: Path, tmp_path: Path) -> None:
    task: Task = classes_task({"organ": 1})
    first = Store(Pipeline.of(POWER), task, tmp_path).folder
    (site / "toy_tools-1.2.dist-info").rename(site / "toy_tools-1.3.dist-info")
    metadata = site / "toy_tools-1.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
    importlib.invalidate_caches()
    plugins.registry.cache_clear()
    assert Store(Pipeline.of(POWER), task, tmp_path).folder != first


def card_file(folder: Path, version: str) -> Path:
    provider = Provider(package="toy-tools", version=version)
    card = small.card_of(card_version=2, preprocess=POWER, step_providers={"power": provider})
    file = folder / "small.safetensors"
    save_weights(file, small.network_of().state_dict(), card)
    return file


def test_a_model_names_the_plugin_of_its_step(site: Path, tmp_path: Path) -> None:
    model = NetworkModel.from_files([card_file(tmp_path, "1.2")], device="cpu")
    assert installed_providers(model.card) == [plugins.registry().plugins[0].owner, "toy-tools 1.2"]
    with pytest.warns(CtsegWarning, match=r"'power' of toy-tools 1\.0, and toy-tools 1\.2"):
        NetworkModel.from_files([card_file(tmp_path, "1.0")], device="cpu")
    with pytest.raises(PluginError, match=r"'power' of toy-tools 3\.0"):
        NetworkModel.from_files([card_file(tmp_path, "3.0")], device="cpu")
    other = card_file(tmp_path, "1.2")
    (site / "toy_tools.py").write_text(PLUGIN.replace('"power"', '"root"'))
    sys.modules.pop("toy_tools")
    plugins.registry.cache_clear()
    with pytest.raises(UnknownName, match="has no such step") as caught:
        NetworkModel.from_files([other], device="cpu")
    assert "pip install toy-tools==1.2" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('kind: ClassVar[str] = "power"', 'kind: ClassVar[str] = "force"', "has the kind 'force'"),
        ("class Power(OnValues)", "class Power", "lacks fit, fit_parts"),
        ("    return Power", "    return Power()", "is no dataclass"),
        ("    return Power", "    raise OSError('gone')", "raised OSError: gone"),
    ],
)
def test_what_is_no_step_is_refused_by_name(site: Path, old: str, new: str, complaint: str) -> None:
    (site / "toy_tools.py").write_text(PLUGIN.replace(old, new))
    with pytest.raises(PluginError, match=complaint) as caught:
        Pipeline.of(POWER)
    assert "toy-tools 1.2" in caught.value.message


# ---------------------------------------------------------------- augmentations


OFF = AugmentConfig.model_validate(
    {"preset": "nnunet", "mirror_axes": (), **dict.fromkeys(PROBABILITIES, 0.0)}
).resolved((4, 4, 4))


def augmented(config: AugmentConfig, image: torch.Tensor, step: int) -> torch.Tensor:
    target = torch.zeros(image.shape, dtype=torch.int64)
    out, _ = augment(image, target, Recipe((4, 4, 4), len(image), 3, config), step)
    return out


def test_an_augmentation_is_set_in_the_run_file(site: Path) -> None:
    data = {"augment": {"extra": {"blank": {"probability": 0.5, "value": 7.0}}}}
    config = parse_config(data)
    check_names(config)
    assert "[augment.extra.blank]" in dump_config(config)
    image = torch.randn(2, 1, 4, 4, 4)
    on = OFF.model_copy(update={"extra": config.augment.extra})
    results = [augmented(on, image, step) for step in range(40)]
    blank = [bool((r[0] == r[0].flatten()[0]).all()) for r in results]
    assert 10 < sum(blank) < 30
    assert all((r[0] >= 7).all() for r, b in zip(results, blank, strict=True) if b)
    again = [augmented(on, image, step) for step in range(40)]
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))
    both = on.model_copy(update={"extra": {"rings": {"probability": 1.0}, **on.extra}})
    more = [
        augmented(both, image, step) for step in range(40)
    ]  # 'blank' comes last, with its own numbers
    assert all(torch.equal(a[0], b[0]) for a, b, c in zip(results, more, blank, strict=True) if c)
    assert on.model_copy(update={"preset": "none"}).resolved((4, 4, 4)).idle
    assert not on.idle


@pytest.mark.parametrize(
    ("extra", "error", "complaint"),
    [
        ({"blanc": {"probability": 1}}, UnknownName, "Did you mean 'blank'"),
        ({"blank": {"probability": 1, "valeu": 2}}, ConfigError, "Did you mean 'value'"),
        ({"rings": {"probability": 1, "density": 2}}, ConfigError, "density a share"),
    ],
)
def test_wrong_augmentations_are_refused_before_training(
    site: Path, extra: dict[str, dict[str, float]], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        check_names(RunConfig(augment=AugmentConfig(extra=extra)))
    for wrong in ({"blank": {}}, {"blank": {"probability": 2}}, {"blank": {"probability": "x"}}):
        with pytest.raises(ConfigError, match="'blank' needs a probability from 0 to 1"):
            parse_config({"augment": {"extra": wrong}})


def test_an_augmentation_that_changes_the_shape_names_its_plugin(site: Path) -> None:
    text = PLUGIN.replace("return image.fill_(config.value + rng.random())", "return image[:, 1:]")
    (site / "toy_tools.py").write_text(text)
    on = OFF.model_copy(update={"extra": {"blank": {"probability": 1.0}}})
    with pytest.raises(PluginError, match=r"'blank' from the plugin toy-tools 1\.2 must return"):
        augmented(on, torch.zeros(1, 1, 4, 4, 4), 0)


def test_rings_are_rings() -> None:
    """Along every ray from the axis each slice has the same profile: values depend on the radius alone."""
    spec = plugins.registry().get("augmentation", "rings").spec
    augment_ = spec.build(plugins.make_config(spec, {"strength": 1.0, "density": 1.0}))
    noise = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    changed, _ = augment_(
        noise.clone(),
        torch.zeros(1, 3, 24, 24),
        rng=np.random.default_rng(5),
        spacing_zyx=(3, 1, 1),
    )
    added = (changed - noise)[0].numpy()
    assert np.abs(added).max() > 0.05
    np.testing.assert_allclose(added[0], added[2], atol=1e-5)
    rng = np.random.default_rng(5)
    centre = [rng.uniform(-0.5, 1.5) * 24 for _ in range(2)]
    y, x = np.mgrid[:24, :24]
    radius = np.hypot(y - centre[0], x - centre[1]).ravel()
    order = np.argsort(radius)
    jump = np.abs(np.diff(added[1].ravel()[order]))
    assert (jump <= 40 * np.diff(radius[order]) + 1e-4).all()  # a continuous function of the radius


# ---------------------------------------------------------------- commands


def test_a_command_is_listed_and_run(site: Path) -> None:
    listed = runner.invoke(app, ["--help"])
    assert "greet" in listed.stdout
    assert "Greet somebody by name." in listed.stdout
    assert runner.invoke(app, ["greet", "you", "--loud"]).stdout == "HELLO YOU\n"
    shown = runner.invoke(app, ["greet", "--help"]).stdout
    assert "Usage: " in shown and "greet" in shown and "--loud" in shown
    done = runner.invoke(app, ["greet", "nobody"])
    assert done.exit_code == 2
    assert "Error: Nobody is there." in done.stderr
    assert runner.invoke(app, ["gret", "you"]).exit_code == 2


def test_help_imports_no_command(site: Path) -> None:
    text = PLUGIN.replace("def load_command():\n", "def load_command():\n    import torch\n")
    (site / "toy_tools.py").write_text(text)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from ctseg.cli.app import app\n"
        "try: app(['--help'], prog_name='ctseg')\nexcept SystemExit: pass\n"
        "assert 'toy_tools' in sys.modules\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'SimpleITK') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], capture_output=True, text=True, check=True
    )
    assert "greet" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_command_that_is_none_is_refused_by_name(site: Path) -> None:
    (site / "toy_tools.py").write_text(PLUGIN.replace("    return greet\n", "    return 3\n"))
    done = runner.invoke(app, ["greet", "you"])
    assert done.exit_code == 2
    assert "'greet' from the plugin toy-tools 1.2 is int" in done.stderr


def test_no_plugin_takes_a_command_of_ctseg(site: Path) -> None:
    (site / "toy_tools.py").write_text(PLUGIN.replace('"greet"', '"train"'))
    assert "The command 'train' is claimed by two plugins: ctseg" in error_of("toy-tools")
    assert "Train a model" in runner.invoke(app, ["train", "--help"]).stdout


def test_the_commands_of_ctseg_are_those_that_it_registers() -> None:
    from typer.main import get_command

    from ctseg.builtin.commands import ctseg_commands

    root = get_command(app)
    specs = ctseg_commands()
    assert [spec.name for spec in specs] == list(root.commands)
    assert specs[0].load().name == "demo"


# ---------------------------------------------------------------- clashes and the contract


@pytest.mark.parametrize(
    ("kind", "name", "arguments"),
    [
        ("metric", "voxel_ratio", ["evaluate", "ONE", "TWO", "--metrics", "voxel_ratio"]),
        ("command", "greet", ["greet", "you"]),
        ("step", "power", None),
        ("augmentation", "blank", None),
    ],
)
def test_a_name_that_two_plugins_claim_is_an_error_that_names_both(
    site: Path, tmp_path: Path, kind: plugins.Kind, name: str, arguments: list[str] | None
) -> None:
    install(site, "other-tools", PLUGIN, version="2.0")
    plugins.registry.cache_clear()
    with pytest.raises(NameClash, match="claimed by two plugins") as caught:
        plugins.registry().get(kind, name)
    assert "toy-tools 1.2" in caught.value.message
    assert "other-tools 2.0" in caught.value.message
    if arguments:
        files = dict(zip(("ONE", "TWO"), map(str, maps(tmp_path)), strict=True))
        done = runner.invoke(app, [files.get(word, word) for word in arguments])
        assert done.exit_code == 2
        assert "claimed by two plugins" in done.stderr


def test_a_card_says_whose_step_it_means_where_two_claim_it(site: Path, tmp_path: Path) -> None:
    install(site, "other-tools", PLUGIN, version="2.0")
    plugins.registry.cache_clear()
    model = NetworkModel.from_files([card_file(tmp_path, "1.2")], device="cpu")
    assert type(model.pipeline.steps[1]).__module__ == "toy_tools"


@pytest.mark.parametrize(
    ("declared", "complaint"),
    [
        ("'>=2,<3'", "it was written for versions >=2,<3 of ctseg's plugin contract"),
        ("'<1'", "it was written for versions <1"),
        ("'one'", "its ctseg_contract is 'one', which is no range of versions such as"),
        ("3", "its ctseg_contract is 3"),
        ("'>=1,<2'", "None"),
        ("'~=1.0'", "None"),
    ],
)
def test_the_range_of_the_contract_is_checked(site: Path, declared: str, complaint: str) -> None:
    text = PLUGIN.replace('ctseg_contract = ">=1,<2"', f"ctseg_contract = {declared}")
    for name in ("voxel_ratio", "power", "blank", "greet"):
        text = text.replace(f'"{name}"', f'"old_{name}"' if name != "greet" else '"old-greet"')
    install(site, "old-tools", text)
    assert complaint in error_of("old-tools")
    assert ("old_voxel_ratio" in plugins.registry().table("metric")) == (complaint == "None")
    if complaint != "None":
        with pytest.raises(UnknownName) as caught:
            plugins.registry().get("augmentation", "old_blank")
        assert "failed to load: old-tools" in str(caught.value.hint)
