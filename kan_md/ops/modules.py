"""Scriptable modules around the operators, on features in blocks.

Blocked features are one 1-d tensor: for each irreps in order a block [num_atoms, 2l+1, channels].
A linear map of one irreps is then one matrix product of a contiguous block, whatever its degree.
"""

from __future__ import annotations

import torch

from kan_md.ops.layout import ConvolutionSpec, pack_table, with_steps
from kan_md.ops.library import load
from kan_md.ops.tables import RadialTable

Irreps = list[tuple[int, int]]
"""(channels, l) per irreps."""


_FEW_TYPES = 4
"""Above, types that no atom has would cost more than finding out who is there."""


def can_take_present(num_types: int, *, static_shapes: bool) -> bool:
    """Whether maps by type take along only the types that atoms at hand have."""
    return num_types > _FEW_TYPES and not static_shapes


class _Matrix(torch.nn.Module):
    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mm(x.view(-1, self.weight.size(0)), self.weight)


class BlockLinear(torch.nn.Module):
    """One linear map per output irreps, each from one input irreps.

    Args:
        irreps_in: of the features.
        maps: (input irreps, weight [channels in, channels out] float64) per output irreps.
        dtype: of the model.
    """

    def __init__(
        self, irreps_in: Irreps, maps: list[tuple[int, torch.Tensor]], *, dtype: torch.dtype
    ):
        super().__init__()
        self.sizes: list[int] = [channels * (2 * degree + 1) for channels, degree in irreps_in]
        self.sizes_out: list[int] = [w.size(1) * (2 * irreps_in[i][1] + 1) for i, w in maps]
        self.inputs: list[int] = [number for number, _ in maps]
        self.matrices = torch.nn.ModuleList(_Matrix(w.to(dtype).contiguous()) for _, w in maps)

    def forward(self, x: torch.Tensor, num_atoms: int) -> list[torch.Tensor]:
        """Blocked features -> one [num_atoms * (2l+1), channels] per output irreps."""
        blocks = torch.split(x, [num_atoms * size for size in self.sizes])
        out: list[torch.Tensor] = []
        for number, matrix in enumerate(self.matrices):
            out.append(matrix(blocks[self.inputs[number]]))
        return out


class TypedLinear(torch.nn.Module):
    """Linear maps whose weights depend on the type of the atom.

    Of many types only those of the atoms at hand are taken along, unless shapes must be static.

    Args:
        irreps_in: of the features.
        maps: (input irreps, weight [num_types, channels in, channels out] float64) per output.
        dtype: of the model.
        static_shapes: whether no shape may depend on data.
        attributes: [num_types, num_attributes] of the types; weights are then those of attributes,
            [num_attributes, channels in, channels out], of which a type has a sum. For many types
            and shapes that are not static.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        maps: list[tuple[int, torch.Tensor]],
        *,
        dtype: torch.dtype,
        static_shapes: bool = False,
        attributes: torch.Tensor | None = None,
    ):
        super().__init__()
        self.num_types = len(maps[0][1] if attributes is None else attributes)
        self.takes_present: bool = can_take_present(self.num_types, static_shapes=static_shapes)
        assert attributes is None or self.takes_present
        self.has_attributes: bool = attributes is not None
        self.register_buffer("attributes", maps[0][1].new_zeros(0, 0).to(dtype))
        if attributes is not None:
            self.attributes = attributes.to(dtype)
        self.channels: list[int] = [channels for channels, _ in irreps_in]
        self.rows: list[int] = [2 * degree + 1 for _, degree in irreps_in]
        self.inputs: list[int] = [number for number, _ in maps]
        self.matrices = torch.nn.ModuleList(
            _Matrix(w.flatten(0, 1).to(dtype).contiguous()) for _, w in maps
        )

    def forward(
        self, x: torch.Tensor, atom_types: torch.Tensor, num_atoms: int
    ) -> list[torch.Tensor]:
        """Blocked features -> one [num_atoms * (2l+1), channels] per output irreps.

        x ⊗ one_hot(type), then one matrix: as many products as types, but large ones.
        """
        sizes = [num_atoms * c * r for c, r in zip(self.channels, self.rows)]  # noqa: B905
        blocks = torch.split(x, sizes)
        count, numbers = self.num_types, atom_types.view(-1)
        present = numbers[:0]
        if self.takes_present:
            is_there = torch.zeros(count, dtype=torch.bool, device=numbers.device)
            is_there[numbers] = True
            present = is_there.nonzero().view(-1)
            numbers = (is_there.cumsum(0) - 1)[numbers]
            count = present.size(0)
        types = torch.arange(count, device=numbers.device)
        one_hot = (numbers.view(-1, 1) == types).to(x.dtype).view(num_atoms, 1, count, 1)
        out: list[torch.Tensor] = []
        for number, matrix in enumerate(self.matrices):
            i = self.inputs[number]
            channels, block = self.channels[i], blocks[i]
            if self.num_types > 1:
                block = block.view(num_atoms, self.rows[i], 1, channels) * one_hot
            block = block.reshape(num_atoms * self.rows[i], count * channels)
            weight = matrix.weight
            if self.takes_present:
                by_row = weight.view(-1, channels * weight.size(1))
                if self.has_attributes:
                    by_row = torch.mm(self.attributes[present], by_row)
                else:
                    by_row = by_row[present]
                weight = by_row.view(count * channels, weight.size(1))
            out.append(torch.mm(block, weight))
        return out


def as_blocks(pieces: list[torch.Tensor]) -> torch.Tensor:
    """Blocked features of one matrix per irreps."""
    return torch.cat([piece.view(-1) for piece in pieces])


class Convolution(torch.nn.Module):
    """``kan_md::messages_of_first`` with its constants.

    Args:
        spec: irreps and paths.
        table: radial functions, path by path in the order of ``spec.paths``.
        couplings: [n, 5] float64, see ops.h.
        dtype: of the model.
    """

    def __init__(
        self,
        spec: ConvolutionSpec,
        table: RadialTable,
        *,
        couplings: torch.Tensor,
        dtype: torch.dtype,
    ):
        super().__init__()
        load()
        values = with_steps(table.values).to(dtype)
        self.register_buffer("table", pack_table(values, spec))
        self.register_buffer("cutoffs", table.cutoffs)
        self.register_buffer("couplings", couplings)
        self.irreps_in: list[int] = spec.flat_irreps
        self.paths: list[int] = spec.flat_paths
        self.num_knots: int = table.values.size(1)

    def choose(self, types: list[int]) -> float:
        """There is nothing to make for chosen types."""
        return 0.0

    def forward(
        self,
        edge_vectors: torch.Tensor,
        x: torch.Tensor,
        edge_index: torch.Tensor,
        atom_types: torch.Tensor,
        num_centres: torch.Tensor,
        centre_types: torch.Tensor,
    ) -> torch.Tensor:
        """Blocked features of the neighbours -> blocked messages of the first atoms.

        These are as many as ``centre_types`` has entries; messages of all but the first
        ``num_centres`` [1] are zero.
        """
        return torch.ops.kan_md.messages_of_first(
            edge_vectors,
            x,
            edge_index,
            atom_types,
            self.table,
            self.cutoffs,
            self.couplings,
            self.irreps_in,
            self.paths,
            self.num_knots,
            num_centres,
            centre_types,
        )

    def _apply(self, fn, recurse: bool = True):
        """Keep cutoffs and couplings in float64 when the module is cast."""
        cutoffs, couplings = self.cutoffs, self.couplings
        module = super()._apply(fn, recurse)
        self.cutoffs = cutoffs.to(self.table.device)
        self.couplings = couplings.to(self.table.device)
        return module


class Exchange(torch.nn.Module):
    """``kan_md::exchange``: features of atoms that other ranks of LAMMPS own, from their owners.

    Args:
        sizes: numbers per atom of each block.
    """

    def __init__(self, sizes: list[int]):
        super().__init__()
        load()
        self.sizes: list[int] = sizes
        self.width: int = sum(sizes)

    def forward(
        self,
        x: torch.Tensor,
        types: torch.Tensor,
        num_local: torch.Tensor,
        atom_types: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blocked features of the first atoms, and ``types`` -> those of all, and their types.

        Where nothing is exchanged both are those of the first atoms.
        """
        x = torch.ops.kan_md.exchange(x, self.sizes, num_local, atom_types)
        return x, atom_types[: x.size(0) // self.width]


class NoExchange(torch.nn.Module):
    """Before a layer whose input every rank knows."""

    def forward(
        self,
        x: torch.Tensor,
        types: torch.Tensor,
        num_local: torch.Tensor,
        atom_types: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give features and types back."""
        return x, types


class PolynomialOfComponents(torch.nn.Module):
    """``kan_md::polynomial`` with its constants.

    Args:
        program: see :class:`kan_md.ops.layout.Polynomial`.
        coefficients: packed.
        components: rows of the blocks that go in, 2l+1 each.
        outputs: rows of the blocks that come out.
    """

    def __init__(
        self,
        program: torch.Tensor,
        coefficients: torch.Tensor,
        *,
        components: list[int],
        outputs: list[int],
    ):
        super().__init__()
        load()
        self.register_buffer("program", program)
        self.register_buffer("coefficients", coefficients)
        self.components: list[int] = components
        self.outputs: list[int] = outputs

    def choose(self, types: list[int]) -> float:
        """There is nothing to make for chosen types."""
        return 0.0

    def forward(
        self, a: torch.Tensor, atom_types: torch.Tensor, num_centres: torch.Tensor
    ) -> torch.Tensor:
        """[num_atoms * components, channels] -> [num_atoms * outputs, channels].

        Those of all but the first ``num_centres`` [1] atoms are zero.
        """
        return torch.ops.kan_md.polynomial(
            a,
            atom_types,
            self.coefficients,
            self.program,
            self.components,
            self.outputs,
            num_centres,
        )
