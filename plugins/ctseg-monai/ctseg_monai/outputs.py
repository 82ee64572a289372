"""What a bundle does with the network's output: tiles, activation, thresholds and cleaning, in ctseg's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctseg.config import LabelConfig, PredictConfig, TaskConfig
from ctseg.config.postprocess import PostprocessRule
from ctseg.errors import BadInput
from ctseg.specs import Constraints, TaskKind, Zyx
from ctseg_monai.transforms import name_of

HARMLESS = {
    "SaveImaged", "EnsureTyped", "ToTensord", "ToDeviced", "CastToTyped", "DeleteItemsd", "Identityd",
    "EnsureChannelFirstd",
}  # fmt: skip
"""Transforms that write or move the result and change none of its labels."""
CONNECTIVITY = {None: 26, 1: 6, 2: 18, 3: 26}
BLENDS = {"constant": "monai_constant", "gaussian": "monai_gaussian"}
PADDINGS = {"constant": "zeros", "reflect": "reflect"}


def read_tiles(
    inferer: Mapping[str, Any], constraints: Constraints, where: str
) -> tuple[PredictConfig, list[str]]:
    """The tiles, and what could not be taken over.

    Raises:
        BadInput: an inferer without a counterpart here, or a patch that the network does not accept.
    """
    dotted = str(inferer.get("_target_", ""))
    name = dotted.rsplit(".", 1)[-1]
    known = dotted == name or dotted.startswith("monai.inferers.")
    if name == "SimpleInferer" and known:
        return PredictConfig(tile_zyx=constraints.fixed_tile_zyx, padding="zeros"), []
    if name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt") or not known:
        raise BadInput(
            f"{where} asks for the inferer '{dotted}'.",
            hint="Known: SlidingWindowInferer, SimpleInferer",
        )
    roi = inferer.get("roi_size")
    sizes = [roi] * 3 if isinstance(roi, int) else roi
    if not isinstance(sizes, list) or len(sizes) != 3 or min(int(s) for s in sizes) < 1:
        raise BadInput(f"{where}: roi_size is {roi!r}; it must be three sizes of 1 or more.")
    z, y, x = (int(s) for s in sizes)
    tile: Zyx = (z, y, x)
    if constraints.fit(tile) != tile:
        raise BadInput(f"{where}: the network does not accept the roi_size {roi}.")
    overlap = inferer.get("overlap", 0.25)
    shares = tuple(map(float, overlap)) if isinstance(overlap, list) else float(overlap)
    mode, padding = (
        str(inferer.get("mode", "constant")).lower(),
        str(inferer.get("padding_mode", "constant")).lower(),
    )
    if mode not in BLENDS:
        raise BadInput(
            f"{where}: the inferer's mode is '{mode}'.", hint="Known: constant, gaussian"
        )
    left_out = []
    sigma = inferer.get("sigma_scale", 0.125)
    if mode == "gaussian" and sigma != 0.125:
        raise BadInput(f"{where}: the inferer's sigma_scale is {sigma}; known is 0.125.")
    if padding not in PADDINGS or (padding == "constant" and float(inferer.get("cval", 0.0))):
        left_out.append(
            f"padding of scans smaller than a patch by '{padding}' with {inferer.get('cval', 0.0)}: zeros are put there"
        )
    config = PredictConfig(
        tile_zyx=tile,
        overlap=shares,
        blend=BLENDS[mode],
        padding=PADDINGS.get(padding, "zeros"),
    )
    return config, left_out


class Outputs:
    """What the transforms after the network say.

    Args:
        transforms: those that are not disabled.
        skip: names of transforms to leave out, as the user asks.

    Raises:
        BadInput: a transform that changes labels and has no counterpart here.

    Attributes:
        kind: of the task.
        left_out: what could not be taken over.
    """

    def __init__(
        self, transforms: Sequence[Mapping[str, Any]], skip: Sequence[str], where: str
    ) -> None:
        self.where = where
        self.kind: TaskKind | None = None
        self.left_out: list[str] = []
        self._rules: list[tuple[list[int] | None, dict[str, Any], bool]] = []
        self._inverted = self._discretised = False
        for transform in transforms:
            dotted = str(transform.get("_target_", "")).rsplit(".", 1)[-1]
            if dotted in skip:
                self.left_out.append(f"{dotted} after the network, as asked for (skip)")
                continue
            name = name_of(transform, where)
            if name in HARMLESS:
                continue
            if name not in _READ:
                raise BadInput(
                    f"{where} asks for the transform '{name}' after the network, which has no counterpart here.",
                    hint=f"To do without it: --option skip={dotted}",
                )
            _READ[name](self, transform)

    def _activation(self, t: Mapping[str, Any]) -> None:
        if t.get("other") is not None:
            raise BadInput(f"{self.where}: Activationsd has an activation of its own (other).")
        if t.get("softmax"):
            self.kind = "classes"
        elif t.get("sigmoid"):
            self.kind = "channels"

    def _discrete(self, t: Mapping[str, Any]) -> None:
        self._discretised = True
        if t.get("argmax"):
            self.kind = "classes"
        threshold = t.get("threshold")
        if threshold is not None and (float(threshold) != 0.5 or self.kind != "channels"):
            raise BadInput(
                f"{self.where}: AsDiscreted has the threshold {threshold}; known is 0.5 of a sigmoid."
            )

    def _invert(self, t: Mapping[str, Any]) -> None:
        self._inverted = True
        if self._discretised:
            self.left_out.append(
                "labels made before the way back to the scan (Invertd): logits go back, and labels are made of them"
            )
        elif t.get("nearest_interp"):
            self.left_out.append(
                "nearest neighbours on the way back to the scan (Invertd): logits are interpolated linearly instead"
            )
        elif self.kind is not None:
            self.left_out.append(
                "interpolation of probabilities on the way back to the scan (Invertd): logits are interpolated"
            )

    def _largest(self, t: Mapping[str, Any]) -> None:
        applied = t.get("applied_labels")
        labels = [applied] if isinstance(applied, int) else applied
        rule = {
            "keep_largest": int(t.get("num_components", 1)),
            "connectivity": CONNECTIVITY[t.get("connectivity")],
        }
        self._clean(labels, rule, bool(t.get("independent", True)))

    def _fill(self, t: Mapping[str, Any]) -> None:
        applied = t.get("applied_labels")
        labels = [applied] if isinstance(applied, int) else applied
        rule = {"fill_holes": "3d", "connectivity": CONNECTIVITY[t.get("connectivity")]}
        self._clean(labels, rule, True)

    def _clean(self, labels: list[int] | None, rule: dict[str, Any], each: bool) -> None:
        self._rules.append((labels, rule, each))
        if not self._inverted:
            note = "cleaning of labels on the network's grid: it is done on the grid of the scan"
            if note not in self.left_out:
                self.left_out.append(note)

    def task(self, names: Sequence[str]) -> TaskConfig:
        """The task, with these names for the network's channels.

        Raises:
            BadInput: nothing says how labels are made of logits.
        """
        if self.kind is None:
            raise BadInput(
                f"{self.where} says neither softmax or argmax nor sigmoid: how labels are made is unknown.",
                hint="Add an Activationsd or AsDiscreted to postprocessing::transforms",
            )
        start = 0 if self.kind == "classes" else 1
        return TaskConfig(
            kind=self.kind,
            labels=tuple(
                LabelConfig(name=name, values=(number,), value=number)
                for number, name in enumerate(names, start=start)
            ),
        )

    def rules(self, task: TaskConfig) -> tuple[PostprocessRule, ...]:
        """Rules that clean labels up.

        Raises:
            BadInput: a label that there is not.
        """
        foreground = task.task().foreground
        out = []
        for labels, rule, each in self._rules:
            # a channel counts from 0, a class is its own number
            numbers = {f.value - (self.kind == "channels"): f.name for f in foreground}
            chosen = list(numbers) if labels is None else labels
            if any(label not in numbers for label in chosen):
                raise BadInput(
                    f"{self.where} cleans the labels {labels}; there are {list(numbers)}."
                )
            parts = [numbers[label] for label in chosen]
            groups: list[Any] = parts if each or len(parts) == 1 else [tuple(parts)]
            out += [PostprocessRule(label=group, **rule) for group in groups]
        return tuple(out)


_READ = {
    "Activationsd": Outputs._activation,
    "AsDiscreted": Outputs._discrete,
    "Invertd": Outputs._invert,
    "KeepLargestConnectedComponentd": Outputs._largest,
    "FillHolesd": Outputs._fill,
}
