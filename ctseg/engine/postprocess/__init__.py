"""Post-processing of label maps: removes components, fills holes and numbers objects, slab by slab."""

from ctseg.config.postprocess import PostprocessRule
from ctseg.engine.postprocess.apply import postprocess
from ctseg.engine.postprocess.instances import Instances, find_instances
from ctseg.engine.postprocess.parse_rules import rules_from_text
from ctseg.engine.postprocess.rules import check_rules

__all__ = [
    "Instances",
    "PostprocessRule",
    "check_rules",
    "find_instances",
    "postprocess",
    "rules_from_text",
]
