"""Cards as strangers may write them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from ctseg.card import CoarseStage, Metrics, parse_card
from ctseg.config.checking import validate
from ctseg.errors import BadInput, ConfigError, CorruptWeights

CARD = {
    "card_version": 1,
    "architecture": "unet3d",
    "provider": {"package": "ctseg", "version": "1"},
    "in_channels": 1,
    "out_channels": 2,
    "channels": ["CT"],
    "task": {
        "labels": [
            {"name": "background", "values": [0], "value": 0},
            {"name": "organ", "values": [1], "value": 1},
        ]
    },
    "preprocess": {},
    "predict": {},
    "training_data": {"name": "Set"},
}


def test_a_card_is_read_and_written() -> None:
    card = parse_card(json.dumps(CARD), where="card.json")
    assert parse_card(card.to_json(), where="card.json") == card


def test_cards_with_one_overlap_for_all_axes_are_still_read() -> None:
    old = parse_card(json.dumps({**CARD, "predict": {"overlap": 0.25}}), where="card.json")
    assert old.predict.overlap == 0.25
    each = parse_card(json.dumps({**CARD, "predict": {"overlap": [0.5, 0.25, 0]}}), where="c")
    assert each.predict.overlap == (0.5, 0.25, 0.0)
    assert parse_card(each.to_json(), where="c") == each


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"card_version": 1, "temperature": NaN}',
        '{"card_version": 1, "metrics": {"mean_dice": -Infinity}}',
        '{"card_version": ' + "9" * 5000 + "}",
        '{"card_version": ' + "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        "null",
        '{"card_version": "1"}',
    ],
)
def test_what_is_no_card_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptWeights, match=r"card\.json"):
        parse_card(text, where="card.json")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda c: c.update(temperature="1e999"), "temperature"),
        (lambda c: c.update(metrics={"dice": {"organ": "1e999"}}), "metrics.dice.organ"),
        (lambda c: c.update(metrics={"mean_dice": "1e999"}), "metrics.mean_dice"),
        (lambda c: c["provider"].update(package="x --index-url http://evil"), "provider.package"),
        (
            lambda c: c.update(members=[{"file": "../w.safetensors", "tensors_sha256": "0" * 64}]),
            "members.0.file",
        ),
        (lambda c: c.update(stages=[{"model": "/etc/unet3d.v1"}]), "stages.0.model"),
        (lambda c: c.update(stages=[{"model": "a.b", "margin_mm": "1e999"}]), "margin_mm"),
        (lambda c: c.update(seed="x" * 10**6), "seed"),
        (lambda c: c.update(stages=[{"model": "a.b", "as_channels": True}]), "stages"),
        (lambda c: c.update(card_version=2, parts=[CARD, CARD]), "the labels of the parts"),
    ],
)
def test_impossible_values_are_refused(change: Callable[[dict[str, Any]], None], key: str) -> None:
    card = json.loads(json.dumps(CARD))
    change(card)
    text = json.dumps(card).replace('"1e999"', "1e999")  # JSON as it is, infinity to Python
    with pytest.raises((ConfigError, CorruptWeights), match=rf"{key}|1e999") as found:
        parse_card(text, where="card.json")
    assert len(found.value.message) < 1000


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_from_python_are_checked_as_well(value: float) -> None:
    with pytest.raises(BadInput, match="margin_mm"):
        validate(CoarseStage, {"model": "unet3d.v1", "margin_mm": value}, where="--coarse")
    if value < 0:
        return
    with pytest.raises(BadInput, match="mean_dice"):
        validate(Metrics, {"mean_dice": value}, where="the card")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"out_channels": 3}, "out_channels is 3, and the task has 2"),
        ({"in_channels": 2}, "in_channels is 2, and 1 channels are named"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(changes: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_card(json.dumps({**CARD, **changes}), where="card.json")


def test_a_card_of_version_1_has_the_keys_of_version_1() -> None:
    card = parse_card(json.dumps(CARD), where="card.json")
    assert (card.predict.padding, card.predict.average) == ("reflect", "probabilities")
    stored = json.loads(card.to_json())
    assert "source" not in stored
    assert not {"padding", "average"} & set(stored["predict"])


MEMBER = {"file": "first_stage.safetensors", "tensors_sha256": "0" * 64}


def test_a_stage_of_its_own_has_weights_and_no_stage_before_it() -> None:
    own = {**CARD, "card_version": 2, "members": [MEMBER]}
    before = {"model": "unet3d.first"}
    for card in ({**own, "members": []}, {**own, "stages": [before]}):
        stage = {"model": "unet3d.low", "card": card}
        with pytest.raises(ConfigError, match="no stage before it"):
            parse_card(json.dumps({**own, "stages": [stage]}), where="card.json")
    whole = parse_card(
        json.dumps({**CARD, "card_version": 2, "stages": [{"model": "unet3d.low", "card": own}]}),
        where="card.json",
    )
    (found,) = [member.file for member, _ in whole.networks]
    assert found == "first_stage.safetensors"


@pytest.mark.parametrize(
    "change",
    [
        {"predict": {"padding": "zeros"}},
        {"predict": {"average": "logits"}},
        {"predict": {"blend": "nnunet"}},
        {"source": {"importer": "nnunet", "name": "there"}},
        {"stages": [{"model": "unet3d.low", "labels": ["organ"], "as_channels": True}]},
        {"stages": [{"model": "unet3d.low", "card": {**CARD, "members": [MEMBER]}}]},
    ],
)
def test_what_came_with_version_2_needs_it(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="card_version 2"):
        parse_card(json.dumps({**CARD, **change}), where="card.json")
    card = parse_card(json.dumps({**CARD, **change, "card_version": 2}), where="card.json")
    again = parse_card(card.to_json(), where="card.json")
    assert again == card
    assert {"source"} < set(json.loads(card.to_json()))
