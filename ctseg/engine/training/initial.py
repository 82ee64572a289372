"""Weights that training begins with: those of another model, fitted to other labels and channels; and frozen ones."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctseg.card import Card, Initial
from ctseg.config import RunConfig
from ctseg.config.checking import parse_json
from ctseg.data.readers.layout import some
from ctseg.engine.model.build import build
from ctseg.engine.model.weights import load_strictly, read_weights, tensors_sha256
from ctseg.errors import BadInput

Tensors = Mapping[str, torch.Tensor]


def inspect(card: Card, config: RunConfig) -> Initial | None:
    """What a run begins with, as its card will say; None without `model.init`.

    Args:
        card: of the model to be.

    Raises:
        BadInput: weights that do not fit the network, or patterns of `train.freeze` that fit nothing.
    """
    with torch.random.fork_rng(devices=[]):
        network = build(card)
        freeze(network, config.train.freeze)
        if not config.model.init:
            return None
        path = Path(config.model.init)
        tensors, old = read_weights(path)
        _, remade = fitted(network.state_dict(), (tensors, old), card)
    return Initial(
        model=old.name or path.name,
        tensors_sha256=tensors_sha256(tensors),
        licence=old.licence or old.training_data.licence,
        attribution=old.attribution,
        remade=tuple(sorted(remade)),
    )


def initial_of(plan: Path) -> Initial | None:
    """What a run began with, as its `plan.json` says."""
    try:
        found = parse_json(plan.read_text(encoding="utf-8")).get("initial")
    except (OSError, ValueError, AttributeError):  # of an earlier version, or edited
        return None
    return None if found is None else Initial.model_validate(found)


def with_initial(card: Card, initial: Initial | None) -> Card:
    """The card of a model that began with another one: its licence travels with the weights."""
    if initial is None:
        return card
    licences = dict.fromkeys((initial.licence, card.licence))
    licence = " and ".join(licences) if all(licences) else ""
    update = {"initial": initial, "card_version": 2, "licence": licence}
    return card.model_copy(update=update)


def initial_network(card: Card, config: RunConfig, *, fresh: bool) -> torch.nn.Module:
    """The network of a run, with the weights that it begins with, and with frozen ones.

    Args:
        card: of the model to be.
        fresh: whether training begins; a resumed run has weights of its own, and needs the old model no longer.
    """
    init = config.model.init
    network = build(card, config.model.options if fresh and not init else None)
    if fresh and init:
        with torch.random.fork_rng(devices=[]):
            state, _ = fitted(network.state_dict(), read_weights(Path(init)), card)
        load_strictly(network, state, Path(init))
    freeze(network, config.train.freeze)
    return network


def fitted(
    new: Tensors, source: tuple[Tensors, Card], card: Card
) -> tuple[dict[str, torch.Tensor], set[str]]:
    """A model's weights for a network of other labels and channels.

    Outputs keep the weights of labels with the same name, where both tasks are of one kind; the others are as in
    `new`. Input channels keep the weights of channels with the same name; further ones begin with 0, so that the
    network computes what it did. If no name is known, each channel gets the mean of the old ones, times old by new
    count, which keeps the size of the activations where all channels look alike.

    Args:
        new: state of a network of `card` with fresh weights.
        source: the weights and their card.

    Returns:
        the state, and the names of the tensors that are not wholly the old ones.

    Raises:
        BadInput: tensors that differ by more than that.
    """
    old, old_card = source
    outputs, inputs = _growing(card, outputs=1), _growing(card, inputs=1)
    rows = _rows(card, old_card)
    state: dict[str, torch.Tensor] = {}
    remade: set[str] = set()
    for name, fresh in new.items():
        kept = old.get(name)
        if name in outputs or name in inputs:
            kept = None if kept is None else kept.to(fresh.dtype)
            dims = outputs.get(name), inputs.get(name)
            state[name], whole = _refitted(fresh, kept, dims, (rows, _channels(card, old_card)))
            remade |= set() if whole else {name}
            continue
        if kept is None or kept.shape != fresh.shape:
            there = "not there" if kept is None else f"of shape {tuple(kept.shape)}"
            raise BadInput(
                f"The weights of {old_card.name or old_card.architecture} do not fit the network: '{name}' is "
                f"{there}, and {tuple(fresh.shape)} is needed.",
                hint="Keep the options of its network (leave out model.options), or train without --init.",
            )
        state[name] = kept.to(fresh.dtype)
    return state, remade


@dataclass(frozen=True)
class _Mix:
    """How the rows of a tensor are made of old ones.

    Attributes:
        rows: for each new row the old one that it takes, or None.
        others: what the rows without an old one become: `fresh`, `zero` or `mean` (of the old rows, times `factor`).
    """

    rows: tuple[int | None, ...]
    others: str
    factor: float = 1.0

    def whole(self, count: int) -> bool:
        """Whether everything stays as it was."""
        return self.rows == tuple(range(count))


def _rows(card: Card, old: Card) -> _Mix:
    names = [label.name for label in old.task.labels]
    known = {name: number for number, name in enumerate(names)}
    if card.task.kind != old.task.kind:
        known = {}
    elif card.task.kind == "classes":  # the background is one, whatever it is called
        known |= {card.task.labels[0].name: 0}
    return _Mix(tuple(known.get(label.name) for label in card.task.labels), "fresh")


def _channels(card: Card, old: Card) -> _Mix:
    known = {name.casefold(): number for number, name in enumerate(old.channels)}
    rows = tuple(known.get(name.casefold()) for name in card.channels)
    if len(card.channels) == len(old.channels) and not any(row is not None for row in rows):
        return _Mix(tuple(range(len(rows))), "zero")  # as many channels of other names
    factor = len(old.channels) / len(card.channels)
    return _Mix(rows, "zero" if any(row is not None for row in rows) else "mean", factor)


def _refitted(
    fresh: torch.Tensor,
    old: torch.Tensor | None,
    dims: tuple[int | None, int | None],
    mixes: tuple[_Mix, _Mix],
) -> tuple[torch.Tensor, bool]:
    """A tensor whose size depends on outputs or inputs, and whether it is wholly the old one."""
    used = [(dim, mix) for dim, mix in zip(dims, mixes, strict=True) if dim is not None]
    if old is None or len(used) != 1 or used[0][0] < 0:
        return fresh, False
    dim, mix = used[0]
    rest = [[n for i, n in enumerate(t.shape) if i != dim] for t in (fresh, old)]
    if (
        rest[0] != rest[1]
        or max((r for r in mix.rows if r is not None), default=0) >= old.shape[dim]
    ):
        return fresh, False
    if mix.whole(old.shape[dim]):
        return old, True
    out = fresh.clone()
    for number, row in enumerate(mix.rows):
        part = out.select(dim, number)
        if row is not None:
            part.copy_(old.select(dim, row))
        elif mix.others == "zero":
            part.zero_()
        elif mix.others == "mean":
            part.copy_(old.mean(dim) * mix.factor)
    return out, False


def _growing(card: Card, *, outputs: int = 0, inputs: int = 0) -> dict[str, int]:
    """The tensors that are larger in a network of more outputs or inputs, with the axis; -1 if not by one."""
    more = {"out_channels": card.out_channels + outputs, "in_channels": card.in_channels + inputs}
    wider = card.model_copy(update=more)  # all that `build` asks for
    one, two = ({k: v.shape for k, v in build(c).state_dict().items()} for c in (card, wider))
    found = {}
    for name in one.keys() & two.keys():
        if one[name] != two[name]:
            pairs = zip(one[name], two[name], strict=True)
            grown = [i for i, (a, b) in enumerate(pairs) if a != b]
            single = len(grown) == 1 and two[name][grown[0]] == one[name][grown[0]] + 1
            found[name] = grown[0] if single else -1
    return found


def freeze(network: torch.nn.Module, patterns: Sequence[str]) -> None:
    """Keep parameters as they are, and the running statistics of norms among them.

    Args:
        patterns: shell patterns of names, such as `encoder.*`, or the names of modules.

    Raises:
        BadInput: a pattern fits no parameter, or they leave nothing to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not any(_fits(name, [pattern]) for name in names):
            raise BadInput(
                f"train.freeze: '{pattern}' fits no parameter of the network.",
                hint=f"Its parameters are {some(names)}; a pattern is one like '{names[0].partition('.')[0]}.*'.",
            )
    for name, parameter in network.named_parameters():
        if _fits(name, patterns):
            parameter.requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in network.parameters()):
        raise BadInput(
            f"train.freeze: {', '.join(patterns)} fit every parameter, and nothing is left to train.",
            hint="Freeze fewer of them.",
        )
    for name, module in network.named_modules():
        if getattr(module, "running_mean", None) is not None and _fits(
            f"{name}.running_mean", patterns
        ):
            module.register_forward_pre_hook(_keep_statistics)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, p) or name.startswith(f"{p}.") for p in patterns)


def _keep_statistics(module: torch.nn.Module, _: Any) -> None:
    """Let a frozen norm use its running statistics, whatever mode the network is in."""
    module.training = False


def parameter_groups(
    network: torch.nn.Module, remade: Collection[str], *, decay: float, scale: float
) -> list[dict[str, Any]]:
    """Parameters for an optimizer: those made anew with the full rate, those learnt elsewhere with a share of it.

    Biases and norms do not decay.
    """

    def kinds() -> Iterator[tuple[tuple[bool, bool], torch.nn.Parameter]]:
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                plain = parameter.ndim <= 1 or name.endswith(".bias")
                yield (name not in remade, not plain), parameter

    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for kind, parameter in kinds():
        groups.setdefault(kind, []).append(parameter)
    return [
        {
            "params": groups[learnt, decays],
            "weight_decay": decay if decays else 0.0,
            "lr_scale": scale if learnt else 1.0,
        }
        for learnt, decays in sorted(groups)
    ]
