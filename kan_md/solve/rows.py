"""What each unknown adds to energy, forces and stress of a structure: the rows of the problem."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nequip.data import AtomicDataDict
from nequip.nn import GraphModel, with_edge_vectors_

from kan_md.backbones.mace import num_layers
from kan_md.forms.choice import Form
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN
from kan_md.solve.unknowns import Unknowns

_FIELDS = {
    "energy": AtomicDataDict.TOTAL_ENERGY_KEY,
    "forces": AtomicDataDict.FORCE_KEY,
    "stress": AtomicDataDict.STRESS_KEY,
}


@dataclass(frozen=True)
class Rows:
    """Of one structure, float64: a last column says what is there with all unknowns at zero.

    Attributes:
        atoms: [num_atoms, size + 1], energies of atoms, eV.
        energy: [1, size + 1], eV.
        forces: [3 num_atoms, size + 1], eV/Å.
        stress: [9, size + 1], eV/Å³; None without a cell.
    """

    atoms: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor
    stress: torch.Tensor | None


class RowMaker:
    """Makes the rows of structures.

    Where every row of a readout's inputs depends on the edges of one atom alone (MACE of one
    layer), ∂ρ_k/∂(edge vector) of all atoms comes of one reverse pass for each k, and
    F = -Σ_k φ'_k(ρ_k) ∂ρ_k/∂x gives all columns. Otherwise a column is the model itself with one
    unknown at 1 and the others at 0.

    Args:
        model: a potential without trainable parameters; left as it was.
        unknowns: of it.
        backbone: its architecture.
        local: take the first way, if it can be; the second one in any case where False.
    """

    def __init__(
        self, model: GraphModel, unknowns: Unknowns, backbone: str, *, local: bool = True
    ) -> None:
        self.model, self.unknowns = model, unknowns
        self.form = Form(model)
        self.is_local = (
            local and backbone == "mace" and num_layers(model) == 1 and len(unknowns.functions) == 1
        )

    def __call__(self, data: AtomicDataDict.Type) -> Rows:
        """Rows of one structure, in nequip's dictionary."""
        with self.unknowns.kept():
            return self._local(data) if self.is_local else self._probed(data)

    def _outputs(self, data: AtomicDataDict.Type) -> dict[str, torch.Tensor]:
        out = self.form(dict(data))
        found = {"atoms": out[AtomicDataDict.PER_ATOM_ENERGY_KEY].detach().double().reshape(-1)}
        for name, field in _FIELDS.items():
            if name != "stress" or AtomicDataDict.CELL_KEY in data:
                found[name] = out[field].detach().double().reshape(-1)
        return found

    def _probed(self, data: AtomicDataDict.Type) -> Rows:
        size = self.unknowns.size
        columns = []
        for number in range(size + 1):
            unit = torch.zeros(size, dtype=torch.float64)
            unit[number : number + 1] = 1.0  # none of them in the last column
            self.unknowns.put(unit)
            columns.append(self._outputs(data))
        return _rows(
            {
                name: torch.stack(
                    [*(c[name] - columns[-1][name] for c in columns[:-1]), columns[-1][name]], dim=1
                )
                for name in columns[-1]
            }
        )

    def _local(self, data: AtomicDataDict.Type) -> Rows:
        (function,) = self.unknowns.functions
        x, vectors, share = self._inputs(data, function)
        centre, neighbour = data[AtomicDataDict.EDGE_INDEX_KEY]
        values, slopes = self._columns(function, x)  # [atoms, size], [atoms, in, size]
        atoms = share * values
        slopes = share.unsqueeze(2) * slopes
        jacobian = torch.stack(
            [
                torch.autograd.grad(x[:, k].sum(), vectors, retain_graph=True)[0].double()
                for k in range(x.shape[1])
            ],
            dim=1,
        )  # [edges, in, 3]
        by_edge = torch.einsum("ekc,ekp->ecp", jacobian, slopes[centre])  # dE_p/d(edge vector)
        forces = values.new_zeros(len(x), *by_edge.shape[1:])
        forces.index_add_(0, centre, by_edge).index_add_(0, neighbour, by_edge, alpha=-1.0)
        columns = {
            "atoms": atoms,
            "energy": atoms.sum(0, keepdim=True),
            "forces": forces.flatten(0, 1),
        }
        if AtomicDataDict.CELL_KEY in data:
            volume = torch.linalg.det(data[AtomicDataDict.CELL_KEY].double().view(3, 3)).abs()
            virial = torch.einsum("ea,ebp->abp", vectors.detach().double(), by_edge)
            columns["stress"] = (0.5 * (virial + virial.transpose(0, 1)) / volume).flatten(0, 1)
        self.unknowns.put(torch.zeros(self.unknowns.size, dtype=torch.float64))
        rest = self._outputs(data)
        return _rows(
            {name: torch.cat([columns[name], rest[name].unsqueeze(1)], 1) for name in rest}
        )

    def _inputs(
        self, data: AtomicDataDict.Type, function: torch.nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs of the readout [atoms, in], edge vectors, and dE/d(its output) [atoms, 1]."""
        vectors = with_edge_vectors_(dict(data), with_lengths=False)[
            AtomicDataDict.EDGE_VECTORS_KEY
        ]
        vectors = vectors.detach().requires_grad_()
        seen: list[torch.Tensor] = []
        hook = function.register_forward_hook(
            lambda _, inputs, output: seen.extend([inputs[0], output])
        )
        try:
            with torch.enable_grad():
                out = self.model.model.func({**data, AtomicDataDict.EDGE_VECTORS_KEY: vectors})
        finally:
            hook.remove()
        x, y = seen
        energy = out[AtomicDataDict.TOTAL_ENERGY_KEY].sum()
        (share,) = torch.autograd.grad(energy, y, retain_graph=True)
        return x, vectors, share.double().view(-1, 1)

    def _columns(
        self, function: torch.nn.Module, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What each unknown adds to the readout's output, and that by its inputs."""
        x = x.detach().requires_grad_()
        if isinstance(function, KAN) and len(function.layers) == 1:
            return _columns_of_functions(function.layers[0], x)
        values, slopes = [], []
        for number in range(self.unknowns.size):
            unit = torch.zeros(self.unknowns.size, dtype=torch.float64)
            unit[number] = 1.0
            self.unknowns.put(unit)
            with torch.enable_grad():
                y = function(x)
            values.append(y.detach().double().view(-1))
            slopes.append(torch.autograd.grad(y.sum(), x)[0].double())
        return torch.stack(values, dim=1), torch.stack(slopes, dim=2)


def _columns_of_functions(layer: KANLayer, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for Σ_i φ_i(x_i): a basis function of one input is no other input's."""
    rows, inputs = x.shape
    values, slopes = [], []
    for basis in (*layer.coefficients.unbind(2), layer.base_weight):
        if basis is None:
            continue
        with torch.no_grad():
            layer.coefficients.zero_()
            if layer.base_weight is not None:
                layer.base_weight.zero_()
            basis.fill_(1.0)  # of all inputs
        with torch.enable_grad():
            terms = layer.univariate(x)[:, :, 0]
        values.append(terms.detach().double())
        slopes.append(torch.autograd.grad(terms.sum(), x)[0].double())
    each = torch.arange(inputs)

    def in_order(parts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """[rows, in * number], inputs outermost, and the same at its input: [rows, in, ...]."""
        own = torch.stack(parts, dim=2)  # [rows, in, number]
        spread = own.new_zeros(rows, inputs, inputs, len(parts))
        spread[:, each, each] = own
        return own.flatten(1), spread.flatten(2)

    number = layer.num_basis
    parts = [(values[:number], slopes[:number]), (values[number:], slopes[number:])]
    found = [(in_order(v)[0], in_order(s)[1]) for v, s in parts if v]
    return torch.cat([v for v, _ in found], dim=1), torch.cat([s for _, s in found], dim=2)


def _rows(columns: dict[str, torch.Tensor]) -> Rows:
    return Rows(**{"stress": None, **columns})
