"""Plugins that raise, return something else, or are of another version: each is named, and nothing else stops."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ctseg
from ctseg import plugins
from ctseg.card import Provider
from ctseg.cli.app import app
from ctseg.data.readers.find import open_dataset
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.build import build, check_provider
from ctseg.engine.model.weights import save_weights
from ctseg.errors import CtsegWarning, NameClash, PluginError, UnknownName
from tests.engine import small_model as small
from tests.plugins.test_manager import NETWORK, install

BAD_NET = NETWORK.replace("NAME", "bad_net")
SPECS = """
from dataclasses import dataclass
from pathlib import Path
import ctseg
from ctseg.specs import FormatSpec, LossSpec, ReaderSpec

def fail(*args, **options):
    raise KeyError("voxels")

@dataclass(frozen=True)
class Options:
    pass

@ctseg.hookimpl
def ctseg_losses():
    return [LossSpec("bad_loss", fail, Options, frozenset({"classes"}), "fails"),
            LossSpec("no_loss", lambda config: 3, Options, frozenset({"classes"}), "is none")]

@ctseg.hookimpl
def ctseg_readers():
    return [ReaderSpec("bad_reader", RECOGNISE, fail, "fails")]

@ctseg.hookimpl
def ctseg_formats():
    return [FormatSpec("bad_format", (".bad",), lambda path: path.suffix == ".bad", fail, "fails"),
            FormatSpec("no_format", (".none",), lambda path: path.suffix == ".none", lambda path: 7, "is none")]
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path whose plugins the process's own registry sees."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    plugins.registry.cache_clear()
    yield folder
    plugins.registry.cache_clear()
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def card_of(name: str, package: str, version: str = "") -> ctseg.card.Card:
    return small.card_of(
        architecture=name, options={}, provider=Provider(package=package, version=version)
    )


def error_of(folder: Path) -> str:
    return next(info.error for info in plugins.registry().plugins if info.package == folder)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("raise ValueError('no such width')", "raised ValueError: no such width"),
        ("return None", "returned NoneType, not a torch.nn.Module"),
        ("return [1]", "returned list"),
    ],
)
def test_a_network_that_cannot_be_built_names_its_plugin(site, body, complaint):
    head, tail = BAD_NET.split("    from torch import nn")
    install(site, "bad-net", f"{head}    {body}\n{tail.split('1)', 1)[1]}")
    with pytest.raises(PluginError) as caught:
        ctseg.create_model("bad_net", in_channels=1, out_channels=2)
    assert "bad_net" in caught.value.message
    assert "bad-net 1.2" in caught.value.message
    assert complaint in caught.value.message
    with pytest.raises(PluginError, match=r"bad-net 1\.2"):
        build(card_of("bad_net", "bad-net"))
    result = CliRunner().invoke(app, ["architectures", "show", "bad_net"])
    assert result.exit_code == 2
    assert "bad-net 1.2" in result.stderr
    assert "Internal error" not in result.stderr


def test_a_network_that_fails_while_it_runs_names_its_plugin(site):
    source = BAD_NET.replace(
        "    return nn.Conv3d(in_channels, out_channels, 1)",
        "    class Net(nn.Module):\n        def forward(self, x):\n            return x.no_such()\n    return Net()",
    )
    install(site, "bad-net", source)
    network = ctseg.create_model("bad_net", in_channels=1, out_channels=2)
    with pytest.raises(AttributeError) as caught:
        network(torch.zeros(1, 1, 2, 2, 2))
    assert plugins.owner_of(caught.value).owner == "bad-net 1.2"
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    assert plugins.owner_of(caught.value) is None


def test_losses_readers_and_formats_that_fail_name_their_plugin(site, tmp_path):
    install(site, "bad-specs", SPECS.replace("RECOGNISE", "lambda path: path.name == 'bad_set'"))
    for call in (
        lambda: ctseg.create_loss("bad_loss"),
        lambda: open_dataset(tmp_path / "bad_set"),
        lambda: ctseg.read(tmp_path / "scan.bad"),
    ):
        (tmp_path / "bad_set").mkdir(exist_ok=True)
        (tmp_path / "scan.bad").write_bytes(b"x")
        with pytest.raises(PluginError, match=r"bad-specs 1\.2 raised KeyError: 'voxels'"):
            call()
    with pytest.raises(PluginError, match=r"'no_loss' of bad-specs 1\.2 is no function"):
        ctseg.create_loss("no_loss")
    (tmp_path / "scan.none").write_bytes(b"x")
    with pytest.raises(PluginError, match=r"bad-specs 1\.2 opened .* as int"):
        ctseg.read(tmp_path / "scan.none")


def test_a_reader_that_fails_to_recognise_keeps_no_other_from_it(site, tmp_path):
    install(site, "bad-specs", SPECS.replace("RECOGNISE", "fail"))
    ctseg.write(small.scan(), tmp_path / "scan.nii.gz")
    with pytest.warns(CtsegWarning, match=r"`recognise` .* bad-specs 1\.2 raised KeyError"):
        assert not any(spec.recognise(tmp_path) for spec in plugins.readers())
    assert error_of("bad-specs") == "KeyError: 'voxels'"


def test_a_clash_stops_only_who_asks_for_that_name(site):
    install(site, "first-net", NETWORK.replace("NAME", "same"))
    install(site, "second-net", NETWORK.replace("NAME", "same"), version="7.1")
    assert plugins.architecture("unet3d").name == "unet3d"
    with pytest.raises(NameClash, match=r"first-net 1\.2 .* second-net 7\.1"):
        plugins.architecture("same")
    assert "claimed by two plugins" in error_of("second-net")
    # a card says whose network it means
    assert isinstance(build(card_of("same", "second_net")), torch.nn.Module)
    with pytest.raises(NameClash):
        build(card_of("same", "third-net"))


def test_a_clash_with_the_box_does_not_touch_published_models(site, tmp_path):
    model = small.write_model(tmp_path / "small.safetensors")
    install(site, "impostor", NETWORK.replace("NAME", "unet3d"))
    plugins.registry.cache_clear()
    assert NetworkModel.from_files([model], device="cpu").card.architecture == "unet3d"


def test_an_unknown_hook_is_told_and_the_others_count(site):
    hook = "\n@ctseg.hookimpl\ndef ctseg_optimizers():\n    return []\n"
    install(site, "newer-net", NETWORK.replace("NAME", "newer_net") + hook)
    assert plugins.architecture("newer_net").name == "newer_net"
    assert "unknown hook ctseg_optimizers" in error_of("newer-net")
    result = CliRunner().invoke(app, ["plugins", "list"])
    assert result.exit_code == 0
    assert "newer-net could not be used in full" in result.stdout
    assert "ctseg_optimizers" in result.stdout


def test_a_missing_plugin_is_said_first(site):
    with pytest.raises(UnknownName) as caught:
        build(card_of("timm_unetx", "nice-nets", "2.1"))
    assert caught.value.message.startswith("The model needs the plugin package nice-nets 2.1")
    assert "Did you mean" not in str(caught.value)
    assert "pip install nice-nets" in caught.value.hint
    install(site, "broken-net", "raise RuntimeError('no such library')")
    plugins.registry.cache_clear()
    with pytest.raises(UnknownName, match="could not be used: RuntimeError: no such library"):
        build(card_of("broken_net", "broken-net"))


@pytest.mark.parametrize(
    ("trained", "refused", "warned"),
    [("1.2", False, False), ("1.1.9", False, True), ("2.0", True, True), ("", False, False)],
)
def test_another_version_of_a_plugin_warns_and_another_major_one_is_refused(
    site, recwarn, trained, refused, warned
):
    install(site, "good-net", NETWORK.replace("NAME", "good_net"))
    card = card_of("good_net", "good-net", trained)
    if refused:
        with pytest.raises(PluginError) as caught:
            check_provider(card)
        assert 'pip install "good-net==2.0"' in caught.value.hint
        assert "--set force=true" in caught.value.hint
    if warned:
        with pytest.warns(CtsegWarning, match=rf"good-net {trained}, and good-net 1\.2 is"):
            check_provider(card, force=True)
    else:
        check_provider(card)
        assert not recwarn.list


def test_another_package_of_that_network_is_refused(site):
    install(site, "good-net", NETWORK.replace("NAME", "good_net"))
    with pytest.raises(PluginError, match=r"of other-net 1\.2, and good-net 1\.2 is installed"):
        check_provider(card_of("good_net", "other-net", "1.2"))


def test_predict_tells_another_version_and_refuses_another_major_one(site, tmp_path):
    install(site, "good-net", NETWORK.replace("NAME", "good_net"))
    network = ctseg.create_model("good_net", in_channels=1, out_channels=3)
    ctseg.write(small.scan(), tmp_path / "scan.nii.gz")
    command = ["predict", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out"), "-m"]
    for version, code in (("1.1", 0), ("3.0", 2)):
        file = tmp_path / f"v{version}.safetensors"
        save_weights(file, network.state_dict(), card_of("good_net", "good-net", version))
        result = CliRunner().invoke(app, [*command, str(file)])
        assert result.exit_code == code, result.stderr
        said = " ".join(result.stderr.split())
        assert f"good-net {version}, and good-net 1.2 is installed" in said
    result = CliRunner().invoke(app, [*command, str(file), "--set", "force=true"])
    assert result.exit_code == 0
    assert np.asarray(ctseg.read(tmp_path / "out" / "scan.nii.gz").array).shape == (12, 14, 11)


def test_a_card_of_a_newer_ctseg_is_told(recwarn):
    check_provider(small.card_of(ctseg_version="0.0.1"))
    assert not recwarn.list
    with pytest.warns(CtsegWarning, match=r"made with ctseg 999\.0"):
        check_provider(small.card_of(ctseg_version="999.0"))
