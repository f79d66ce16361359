"""Exchange a readout for a KAN that starts as the function of the one before, by least squares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import ase
import torch
from nequip.data import AtomicDataDict
from nequip.nn import PerTypeScaleShift
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.build import sites_of
from kan_md.backbones.mace_modules import MACEReadout, ScalarFunction
from kan_md.backbones.readout_fit import ReadoutFit, clear_readout, fit_readout
from kan_md.kan.network import KAN
from kan_md.model.reference import model_input

ROWS_PER_WEIGHT = 4
"""Rows of features to fit each weight of a readout to."""


@dataclass(frozen=True)
class Exchange:
    """What became of a readout.

    Attributes:
        place: in the model, in words.
        fit: how well the KAN took over the function; None where it starts as zero.
        offset: what the old readout gives for zero features, in its own units; a KAN gives zero.
    """

    place: str
    fit: ReadoutFit | None
    offset: float = 0.0


def is_exchangeable(function: torch.nn.Module) -> bool:
    """Whether a readout is a KAN that is linear in its weights: one layer, of every scalar."""
    return isinstance(function, KAN) and len(function.layers) == 1


@torch.no_grad()
def exchange_readouts(
    model: GraphModel,
    old: GraphModel,
    structures: Iterable[ase.Atoms],
    *,
    backbone: str,
    generator: torch.Generator,
    rows_per_weight: float = ROWS_PER_WEIGHT,
) -> list[Exchange]:
    """Give the output KANs of a model the functions of another model's readouts.

    What the old readouts give for zero features goes to the energies of the types.

    Args:
        model: with the weights of ``old`` everywhere but in these KANs; changed in place.
        old: the trained model, in the same dtype.
        structures: whose features are fitted to; may be endless where ``rows_per_weight`` is not.
        backbone: of both.
        generator: decides which rows the fits are judged by.
        rows_per_weight: of a readout, after which no more structures are evaluated.
    """
    if backbone == "mace":
        done = _exchange_of_mace(model, old, structures, generator, rows_per_weight)
        _shift_energies(model, sum(exchange.offset for exchange in done))
        return done
    (new,), (before,) = (sites_of(m, backbone)["output"] for m in (model, old))
    if not is_exchangeable(new.function):
        return []
    enough = rows_per_weight * _num_weights(new.function)
    features = _inputs(old, before.function, structures, enough=enough)
    fit = fit_readout(new.function, features, before.function(features), generator=generator)
    return [Exchange("readout", fit)]


def _shift_energies(model: GraphModel, offset: float) -> None:
    """Add an energy, in units of the readouts, to the energies of all types."""
    if offset:
        (module,) = (m for m in model.modules() if isinstance(m, PerTypeScaleShift))
        module.shifts += offset * module.scales


def _exchange_of_mace(
    model: GraphModel,
    old: GraphModel,
    structures: Iterable[ase.Atoms],
    generator: torch.Generator,
    rows_per_weight: float,
) -> list[Exchange]:
    """Each layer's KAN takes over what upstream's block beside it leaves."""
    done = []
    pairs = zip(_readouts(model), _readouts(old), strict=True)
    for number, (new, before) in enumerate(pairs, start=1):
        beside = new.beside
        if beside is None or not is_exchangeable(beside.function):
            continue
        place = f"readout of layer {number}"
        if _same_block(new, before) and before.beside is None:
            clear_readout(beside.function)
            done.append(Exchange(place, None))
            continue
        enough = rows_per_weight * _num_weights(beside.function)
        features = _inputs(old, before, structures, enough=enough)
        targets = _value(before, features) - _value_of_block(new, features)
        nothing = torch.zeros_like(features[:1])
        offset = float(_value(before, nothing) - _value_of_block(new, nothing))
        columns = features.narrow(-1, beside.start, beside.length)
        fit = fit_readout(beside.function, columns, targets - offset, generator=generator)
        done.append(Exchange(place, fit, offset))
    return done


def _readouts(model: torch.nn.Module) -> list[MACEReadout]:
    return [module for module in model.modules() if isinstance(module, MACEReadout)]


def _same_block(new: MACEReadout, before: MACEReadout) -> bool:
    return new.block is not None and type(new.block) is type(before.block)


def _value(readout: MACEReadout, features: torch.Tensor) -> torch.Tensor:
    """A layer's share of the energy, [rows, 1], of functions that know no types."""
    value = _value_of_block(readout, features)
    beside: ScalarFunction | None = readout.beside
    if beside is None:
        return value
    return value + beside.function(features.narrow(-1, beside.start, beside.length))


def _value_of_block(readout: MACEReadout, features: torch.Tensor) -> torch.Tensor:
    return (
        features.new_zeros(len(features), 1) if readout.block is None else readout.block(features)
    )


def _num_weights(kan: KAN) -> int:
    return sum(parameter.numel() for parameter in kan.parameters())


def _inputs(
    model: GraphModel,
    module: torch.nn.Module,
    structures: Iterable[ase.Atoms],
    *,
    enough: float,
) -> torch.Tensor:
    """What a module sees of structures, [rows, features], until there are ``enough`` rows."""
    collected: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, inputs: tuple) -> None:
        found = inputs[0]
        if isinstance(found, dict):
            found = found[AtomicDataDict.NODE_FEATURES_KEY]
        collected.append(found.detach())

    handle = module.register_forward_pre_hook(keep)
    r_max, type_names = float(model.metadata["r_max"]), list(model.type_names)
    try:
        for atoms in structures:
            model.model.func(model_input(atoms, r_max, type_names))
            if sum(map(len, collected)) >= enough:
                break
    finally:
        handle.remove()
    return torch.cat(collected)
