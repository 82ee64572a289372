"""Bundles of few bytes whose references, expressions or YAML aliases stand for more values than memory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ctseg.errors import BadInput
from ctseg.zoo.importers.entry import EntryOptions, import_model
from ctseg_monai.bundle import _Loader
from ctseg_monai.expressions import Settings
from tests.conformance.monai_bundles import UNET, config, write_bundle

TENS = {"a0": [1] * 10, **{f"a{i}": [f"@a{i - 1}"] * 10 for i in range(1, 10)}}
"""Lists of ten references to such lists: a9 has ten billion values."""


def chain(first: Any, text: str, length: int) -> dict[str, Any]:
    """Keys that each refer to the one before, the last of them x."""
    content = {f"a{i}": text.replace("@a", f"@a{i - 1}") for i in range(1, length)}
    return {"a0": first, **content, "x": f"@a{length - 1}"}


def layers(first: str, layer: str) -> str:
    """YAML of ten keys, of which each repeats the one before ten times."""
    rest = [f"a{i}: &a{i} " + layer.format(", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 10)]
    return "\n".join([f"a0: &a0 {first}", *rest])


def as_yaml(bundle: Path, content: dict[str, Any], more: str) -> None:
    """Write the configuration of a bundle as YAML in place of JSON."""
    file = bundle / "configs" / "inference.json"
    file.with_suffix(".yaml").write_text(f"{yaml.safe_dump(content)}\n{more}")
    file.unlink()


@pytest.mark.parametrize(
    "content",
    [
        TENS | {"x": "@a9"},
        chain([1] * 10, "$@a + @a", 40),
        chain("'\\\"", "$str([@a])", 40),
        chain(2**4000, "$@a * @a", 17),
        {"x": "$[[[0] * 10000] * 10000] * 10000 == 1"},
    ],
)
def test_values_that_multiply_are_refused(content):
    with pytest.raises(BadInput, match=r"c\.json.*bounds"):
        Settings(content, "c.json").get("x")


@pytest.mark.parametrize(
    ("more", "named"),
    [("", "bounds"), (layers("[1]", "[{}]"), "bounds"), ("a9: &a [*a]", "itself")],
)
def test_bundles_whose_references_multiply_are_refused(more, named, tmp_path):
    content = config(network_def=UNET | {"channels": "@a9"})
    bundle = write_bundle(tmp_path / "bundle", TENS | content, weights=False)
    if more:
        as_yaml(bundle, content, more)
    with pytest.raises(BadInput, match=named):
        import_model("monai", [bundle], EntryOptions(zoo=tmp_path / "zoo"))


@pytest.mark.parametrize(
    "more", [layers("[1]", "[{}]") + "\nhandlers: *a9", layers("{x: 1}", "{{<<: [{}]}}")]
)
def test_aliases_that_multiply_do_no_harm_where_nothing_needs_them(more, tmp_path):
    content = config()
    del content["handlers"]
    bundle = write_bundle(tmp_path / "bundle", config())
    as_yaml(bundle, content, more)
    import_model("monai", [bundle], EntryOptions(zoo=tmp_path / "zoo"))


def test_merged_tables_are_those_of_yaml():
    text = "{a: &a {x: 1, y: 2}, b: &b {x: 3}, c: &c {<<: [*a, *b, *a], z: 4}, d: {<<: *c, y: 5}}"
    assert _Loader(text).get_single_data() == yaml.safe_load(text)
