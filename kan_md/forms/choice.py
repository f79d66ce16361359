"""Which form a model is evaluated in."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from nequip.data import AtomicDataDict
from nequip.nn import ForceStressOutput, GraphModel

from kan_md.backbones.mace_modules import MACELayer
from kan_md.errors import user_error
from kan_md.forms import allegro, allegro_operator, mace, nequip
from kan_md.forms.forces import ForcesOfPairs
from kan_md.forms.replaced_module import with_module_replaced
from kan_md.ops import is_built

Wanted = Literal["auto", "fast", "upstream"]
WANTED: tuple[str, ...] = get_args(Wanted)


class Form:
    """A model as a function of nequip's dictionary, in the form that was chosen.

    It owns nothing: parameters, buffers, mode and hooks are the model's, read at every call.

    Args:
        model: any model.
        wanted: ``upstream``; ``fast``, an error where there is no other form of the model; or
            ``auto``, that form where there is one.

    Raises:
        KanMdError: an unknown word, or no other form where one is wanted.

    Attributes:
        name: ``fast`` or ``upstream``.
        reason: why, in a few words.
    """

    def __init__(self, model: GraphModel, wanted: Wanted = "auto"):
        if wanted not in WANTED:
            raise user_error(
                "training.form",
                found=wanted,
                allowed=", ".join(WANTED),
                remedy="set training.form",
            )
        self._model = model
        missing = why_upstream(model)
        if wanted == "fast" and missing is not None:
            raise user_error(
                "no fast form of this model",
                found=missing,
                allowed="training.form auto, upstream",
                remedy="leave training.form out",
            )
        if wanted == "upstream":
            missing = "as asked for"
        self.name = "fast" if missing is None else "upstream"
        self._energy, self.reason = None, missing
        if missing is None and _is_allegro(model.model.func):
            self._energy = allegro_operator.AllegroForm(model.model.func)
            self.reason = self._energy.reason
        elif missing is None and _is_mace(model.model.func):
            self._energy = mace.MACEForm(model.model.func)
            self.reason = (
                f"products of weights are formed once per step, {_sums(self._energy.no_expansion)}"
            )
        elif missing is None:
            self._energy = nequip.NequIPForm(model.model.func)
            self.reason = f"each pair of atoms is evaluated once, {_convolutions()}"

    def __str__(self) -> str:
        """Name and reason."""
        return f"{self.name}: {self.reason}"

    def __call__(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Do what the model does. While somebody watches its modules, they are what is called."""
        if self._energy is None or _is_watched(self._model):
            return self._model(data)
        return _with_energy(self._model, self._energy)(data)


def with_fixed_weights(model: GraphModel) -> GraphModel:
    """The same function in its fastest form, for a model whose parameters do not change any more.

    Args:
        model: what was trained; its parameters need no gradient afterwards.
    """
    model.requires_grad_(False)
    if why_upstream(model) is not None:
        return model
    if _is_allegro(model.model.func):
        kind = allegro_operator.AllegroForm
    else:
        kind = mace.MACEForm if _is_mace(model.model.func) else nequip.NequIPForm
    return _with_energy(model, _Registered(kind(model.model.func), model.model.func))


class _Registered(torch.nn.Module):
    """A form that shows the model's parameters and buffers, to those that ask where they are."""

    def __init__(self, form: torch.nn.Module, energy: torch.nn.Module):
        super().__init__()
        self.form, self.energy, self.pairs = form, energy, form.pairs

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        return self.form(data)


def prefers_vectors(model: torch.nn.Module) -> bool:
    """Whether a model is faster where it is given the edges' vectors; those that evaluate each pair
    of atoms once find the pairs in positions and cell.
    """
    is_potential = isinstance(model, GraphModel) and isinstance(model.model, ForceStressOutput)
    return is_potential and _is_allegro(model.model.func)


def why_upstream(model: torch.nn.Module) -> str | None:
    """Why a model is evaluated as upstream does it; None where it has a faster form."""
    if not isinstance(model, GraphModel) or not isinstance(model.model, ForceStressOutput):
        return "forms are for potentials"
    energy = model.model.func
    if _is_allegro(energy):
        return allegro.why_not(energy)
    return mace.why_not(energy) if _is_mace(energy) else nequip.why_not(energy)


def _convolutions() -> str:
    where = "by operators on a CPU" if is_built() else "in plain torch; faster after: kan-md build"
    return f"convolutions {where}"


def _sums(no_expansion: str | None) -> str:
    """How MACE's messages are summed."""
    if not is_built():
        return _convolutions()
    if no_expansion is None:
        return "the first layer is one expansion of each neighbourhood by an operator on a CPU"
    return f"{_convolutions()}; the first layer is no expansion, {no_expansion}"


def _is_allegro(energy: torch.nn.Module) -> bool:
    return "allegro" in dict(energy.named_children())


def _is_mace(energy: torch.nn.Module) -> bool:
    return any(isinstance(part, MACELayer) for part in energy.children())


def _is_watched(model: torch.nn.Module) -> bool:
    waiting = [model]  # model.modules() makes names, which takes a millisecond
    while waiting:
        module = waiting.pop()
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        ):
            return True
        waiting += [part for part in module._modules.values() if part is not None]
    return False


def _with_energy(model: GraphModel, energy: torch.nn.Module) -> GraphModel:
    return with_module_replaced(model, "model", ForcesOfPairs(model.model, energy))
