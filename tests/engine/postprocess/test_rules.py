"""Rules in run files, on cards and on the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ctseg.card import Card, Provider, TrainingData, parse_card
from ctseg.config import (
    PredictConfig,
    PreprocessConfig,
    TaskConfig,
    dump_config,
    load_config,
    override,
    parse_config,
)
from ctseg.engine.postprocess import PostprocessRule, check_rules, rules_from_text
from ctseg.errors import BadInput, ConfigError, UnknownName
from ctseg.specs import Label, Task
from ctseg.task import classes_task

TASK = classes_task({"liver": 1, "spleen": 2, "left, kidney": 3, "C+S": 4})
RULES = [
    {"label": "liver", "keep_largest": 1, "fill_holes": "3d"},
    {"label": ["liver", "spleen"], "min_size_ml": 0.5, "connectivity": 6},
    {"label": "*", "min_size_voxels": 30},
]


# ---------------------------------------------------------------- run files and cards


def test_rules_stand_in_the_run_file(tmp_path):
    config = parse_config({"predict": {"postprocess": RULES}})
    assert config.predict.postprocess[0].label == "liver"
    assert config.predict.postprocess[1].names == ("liver", "spleen")
    path = tmp_path / "run.toml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config
    assert parse_config({}).predict.postprocess == ()
    one = override(config, ["predict.postprocess=[{label='spleen', keep_largest=2}]"])
    assert one.predict.postprocess == (PostprocessRule(label="spleen", keep_largest=2),)


def test_the_rules_on_the_page_are_rules():
    page = Path(__file__).parents[3] / "docs" / "how-to" / "clean-up.md"
    block = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    assert len(parse_config(tomllib.loads(block)).predict.postprocess) == 3


def test_rules_travel_with_the_card():
    card = Card(
        architecture="unet3d", provider=Provider(package="ctseg"), in_channels=1, out_channels=5,
        channels=("CT",), task=TaskConfig.of(TASK), preprocess=PreprocessConfig(),
        predict=PredictConfig(postprocess=tuple(PostprocessRule(**rule) for rule in RULES)),
        training_data=TrainingData(name="X"),
    )  # fmt: skip
    assert parse_card(card.to_json(), where="a test") == card


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"label": "liver"}, "the rule does nothing; give keep_largest"),
        ({"label": "liver", "min_size_ml": 1, "min_size_voxels": 2}, "not both"),
        ({"label": "", "keep_largest": 1}, "a rule names a label"),
        ({"label": [], "keep_largest": 1}, "a rule names a label"),
        ({"label": ["*", "liver"], "keep_largest": 1}, "'\\*' stands alone"),
        ({"label": ["liver", "liver"], "keep_largest": 1}, "named twice"),
        ({"label": "liver", "keep_largest": 0}, "keep_largest"),
        ({"label": "liver", "min_size_ml": 0}, "min_size_ml"),
        ({"label": "liver", "min_size_ml": float("inf")}, "min_size_ml"),
        ({"label": "liver", "fill_holes": "2d"}, "fill_holes"),
        ({"label": "liver", "keep_largest": 1, "connectivity": 8}, "connectivity"),
        ({"keep_largest": 1}, "'predict.postprocess.0.label' is missing"),
        ({"label": "liver", "keep_larger": 1}, "Did you mean 'predict.postprocess.0.keep_largest'"),
    ],
)
def test_impossible_rules_are_refused(rule, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"predict": {"postprocess": [rule]}})


def test_rules_are_held_against_the_task():
    check_rules(TASK, [PostprocessRule(**rule) for rule in RULES])
    check_rules({"liver": 1, "spleen": 2}, [PostprocessRule(**rule) for rule in RULES])
    check_rules(TASK, [])
    with pytest.raises(UnknownName, match=r"Unknown label 'livre'. Did you mean 'liver'\?"):
        check_rules(TASK, [PostprocessRule(label=("spleen", "livre"), keep_largest=1)])
    for labels in (TASK, {"background": 0, "liver": 1}):
        with pytest.raises(BadInput, match="'background' is the background"):
            check_rules(labels, [PostprocessRule(label="background", fill_holes="3d")])
    values = Task("regression", (Label("hu", (1,), 1),))
    check_rules(values, [])
    with pytest.raises(BadInput, match="A regression predicts values, not labels"):
        check_rules(values, [PostprocessRule(label="*", keep_largest=1)])


# ---------------------------------------------------------------- the command line


def texts(**options) -> list[dict]:
    found = rules_from_text(names=[label.name for label in TASK.foreground], **options)
    return [
        {k: v for k, v in rule.model_dump().items() if v is not None and k != "connectivity"}
        for rule in found
    ]


def test_texts_become_rules():
    assert texts() == []
    assert texts(keep_largest="liver, spleen=2") == [
        {"label": "liver", "keep_largest": 1},
        {"label": "spleen", "keep_largest": 2},
    ]
    assert texts(keep_largest="all") == texts(keep_largest="*")
    assert texts(keep_largest="all=3") == [{"label": "*", "keep_largest": 3}]
    assert texts(keep_largest="liver+spleen") == [{"label": ("liver", "spleen"), "keep_largest": 1}]
    assert texts(min_size="0.5ml") == [{"label": "*", "min_size_ml": 0.5}]
    assert texts(min_size="liver=0.5 ml,spleen=30vox") == [
        {"label": "liver", "min_size_ml": 0.5},
        {"label": "spleen", "min_size_voxels": 30},
    ]
    assert texts(min_size="liver=200mm3")[0]["min_size_ml"] == pytest.approx(0.2)
    assert texts(min_size="5µm3")[0]["min_size_ml"] == pytest.approx(5e-12)
    assert texts(fill_holes="liver,spleen=slices") == [
        {"label": "liver", "fill_holes": "3d"},
        {"label": "spleen", "fill_holes": "slices"},
    ]


def test_what_options_say_of_one_label_becomes_one_rule():
    both = texts(keep_largest="liver,spleen", min_size="1ml", fill_holes="liver=slices")
    assert both == [
        {"label": "liver", "keep_largest": 1, "fill_holes": "slices"},
        {"label": "spleen", "keep_largest": 1},
        {"label": "*", "min_size_ml": 1.0},
    ]


def test_all_stands_for_the_labels_that_the_option_does_not_name():
    most = ("liver", "left, kidney", "C+S")
    assert texts(keep_largest="all,spleen=2") == [
        *({"label": name, "keep_largest": 1} for name in most),
        {"label": "spleen", "keep_largest": 2},
    ]
    assert texts(min_size="spleen=5vox,1ml") == [
        {"label": "spleen", "min_size_voxels": 5},
        *({"label": name, "min_size_ml": 1.0} for name in most),
    ]
    assert texts(fill_holes="liver+spleen,all=slices") == [
        {"label": ("liver", "spleen"), "fill_holes": "3d"},
        *({"label": name, "fill_holes": "slices"} for name in most[1:]),
    ]
    assert texts(keep_largest="all,spleen=2", min_size="liver=5vox")[0] == {
        "label": "liver", "keep_largest": 1, "min_size_voxels": 5,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"names kidneys twice.*\n.*Name each label"):
        rules_from_text(keep_largest="all,kidneys=2")


def test_known_names_are_taken_as_they_are():
    assert texts(keep_largest="C+S,left, kidney,liver") == [
        {"label": "C+S", "keep_largest": 1},
        {"label": "left, kidney", "keep_largest": 1},
        {"label": "liver", "keep_largest": 1},
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_largest": ""}, "'--set keep_largest' names no label"),
        ({"fill_holes": " , "}, "'--set fill_holes' names no label"),
        ({"min_size": ""}, "'--set min_size' names no label"),
        ({"keep_largest": "liver=0"}, "cannot keep '0' parts"),
        ({"keep_largest": "liver=two"}, "cannot keep 'two' parts"),
        ({"keep_largest": "liver="}, "'liver=' is not LABEL=VALUE"),
        ({"keep_largest": "=2"}, "'=2' is not LABEL=VALUE"),
        ({"keep_largest": "liver,liver=2"}, "names liver twice"),
        ({"keep_largest": "all,*=2"}, r"names \* twice"),
        ({"keep_largest": "liver+"}, "names a label"),
        ({"keep_largest": "liver+liver"}, "named twice"),
        ({"min_size": "0.5"}, r"'--set min_size' cannot be '0.5'.\n.*a number and a unit"),
        ({"min_size": "liver=1.5vox"}, "cannot be '1.5vox'"),
        ({"min_size": "0ml"}, "cannot be '0ml'"),
        ({"min_size": "liver"}, "cannot be 'liver'"),
        ({"min_size": "3 miles"}, "cannot be '3 miles'"),
        ({"fill_holes": "liver=2d"}, "knows no '2d'"),
    ],
)
def test_texts_that_say_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        texts(**options)
