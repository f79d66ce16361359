"""e3nn's gate on features in blocks."""

from __future__ import annotations

import torch
from e3nn import o3
from e3nn.nn import Gate

from kan_md_deploy.passes.message_passing.linear_maps import first_components


def is_known_gate(module: torch.nn.Module) -> bool:
    """Whether a module is a gate whose nonlinearities are SiLU and tanh."""
    return isinstance(module, Gate) and all(_activation(act) for act in _activations(module))


def block_gate(gate: Gate) -> torch.nn.Module:
    """Pieces as :func:`gate_columns` orders them, number of atoms -> pieces behind the gate."""
    return BlockGate(gate) if len(gate.irreps_gated) else ScalarGate(gate)


class BlockGate(torch.nn.Module):
    """Upstream's gate on blocks: scalars activated, the rest multiplied by activated gates.

    Args:
        gate: e3nn's.
    """

    def __init__(self, gate: Gate):
        super().__init__()
        self.num_scalars = len(gate.irreps_scalars)
        self.gated_rows = [ir.dim for _, ir in gate.irreps_gated]
        self.gated_channels = [mul for mul, _ in gate.irreps_gated]
        self.activations = torch.nn.ModuleList(
            _Activation(*_activation(act)) for act in _activations(gate)
        )

    def forward(self, pieces: list[torch.Tensor], num_atoms: int) -> list[torch.Tensor]:
        """Scalars, gates (all in one piece) and gated blocks -> blocks."""
        out: list[torch.Tensor] = []
        gates: list[torch.Tensor] = []
        for number, activation in enumerate(self.activations):
            if number < self.num_scalars:
                out.append(activation(pieces[number]))
            else:
                gates = torch.split(activation(pieces[number]), self.gated_channels, dim=1)
        first = len(self.activations)
        for number, rows in enumerate(self.gated_rows):
            block = pieces[first + number].view(num_atoms, rows, self.gated_channels[number])
            out.append(block * gates[number].unsqueeze(1))
        return out


class ScalarGate(torch.nn.Module):
    """Upstream's gate where there are scalars only.

    Args:
        gate: e3nn's.
    """

    def __init__(self, gate: Gate):
        super().__init__()
        self.activations = torch.nn.ModuleList(
            _Activation(*_activation(act)) for act in _activations(gate)
        )

    def forward(self, pieces: list[torch.Tensor], num_atoms: int) -> list[torch.Tensor]:
        """Scalars -> scalars, irreps by irreps."""
        out: list[torch.Tensor] = []
        for number, activation in enumerate(self.activations):
            out.append(activation(pieces[number]))
        return out


class _Activation(torch.nn.Module):
    """A nonlinearity times e3nn's constant for unit variance."""

    def __init__(self, name: str, factor: float):
        super().__init__()
        self.name = name
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.name == "silu":
            return torch.nn.functional.silu(x) * self.factor
        return torch.tanh(x) * self.factor


def _activations(gate: Gate) -> list[torch.nn.Module]:
    """Of each irreps of scalars, then the one of all gates, where there are any."""
    gates = list(gate.act_gates.acts) if len(gate.irreps_gates) else []
    return [*gate.act_scalars.acts, *gates[:1]]


def _activation(act: torch.nn.Module) -> tuple[str, float] | None:
    known = {torch.nn.functional.silu: "silu", torch.tanh: "tanh"}
    if getattr(act, "f", None) not in known:
        return None
    one = torch.ones(1, dtype=torch.float64)
    return known[act.f], float(act(one) / act.f(one))


def gate_columns(gate: Gate) -> list[tuple[o3.Irrep, torch.Tensor]]:
    """Channels of the gate's input that are scalars, gates and gated, irreps by irreps.

    Returns:
        (irrep, channels) of each irreps of scalars, of all gates together, of each gated irreps.
    """
    irreps_in = gate.irreps_in
    channel_of = {
        int(place): channel for channel, place in enumerate(first_components(irreps_in).argmax(1))
    }
    places = torch.arange(irreps_in.dim, dtype=torch.float64).unsqueeze(0)
    scalars, gates, gated = (part.squeeze(0) for part in gate.sc(places))

    def columns(irreps: o3.Irreps, part: torch.Tensor) -> list[tuple[o3.Irrep, torch.Tensor]]:
        found = []
        for block, (_, ir) in zip(irreps.slices(), irreps, strict=True):
            chosen = part[block][:: ir.dim].tolist()
            found.append((ir, torch.tensor([channel_of[int(place)] for place in chosen])))
        return found

    all_gates = columns(gate.irreps_gates, gates)
    joined = [(all_gates[0][0], torch.cat([c for _, c in all_gates]))] if all_gates else []
    return [
        *columns(gate.irreps_scalars, scalars),
        *joined,
        *columns(gate.irreps_gated, gated),
    ]
