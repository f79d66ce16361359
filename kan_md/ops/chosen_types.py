"""What a file of many elements makes when the elements of a run are chosen.

Functions that differ from pair to pair of elements would take a table for each pair: thousands for
a model of the whole periodic table, of which a run needs a few. So a file of many elements holds
the network of these functions, and makes tables of the chosen ones by itself. It does so where one
table serves all pairs, too, since a table is larger than its network. Likewise it holds the weights
of MACE's products, not the several times as many coefficients of their polynomials.
``row_of_type`` is the order of the rows of chosen types.
"""

from __future__ import annotations

import torch

from kan_md.ops.layout import ConvolutionSpec, block_of, pack_groups, pack_terms, with_steps
from kan_md.ops.library import load
from kan_md.ops.tables import TableMaker


class ConvolutionOfChosen(torch.nn.Module):
    """:class:`kan_md.ops.modules.Convolution` for types that are chosen later.

    Args:
        spec: irreps and paths.
        maker: of the tables, functions path by path in the order of ``spec.paths``.
        num_types: of the model.
        couplings: [n, 5] float64, see ops.h.
        dtype: of the model.
    """

    def __init__(
        self,
        spec: ConvolutionSpec,
        maker: TableMaker,
        *,
        num_types: int,
        couplings: torch.Tensor,
        dtype: torch.dtype,
    ):
        super().__init__()
        load()
        self.maker = maker
        self.dtype = dtype
        self.block: int = block_of(dtype)
        self.groups: list[tuple[int, int]] = [
            (channels, len(numbers)) for channels, numbers in spec.groups()
        ]
        self.irreps_in: list[int] = spec.flat_irreps
        self.paths: list[int] = spec.flat_paths
        self.num_types = num_types
        self.is_same: bool = maker.all_cutoffs.numel() == 1
        self.register_buffer("couplings", couplings)
        self.register_buffer("table", torch.zeros(0, 0, dtype=dtype))
        self.register_buffer("cutoffs", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("row_of_type", torch.full((num_types,), -1))
        self.num_knots: int = 0
        self.error: float = 0.0

    def choose(self, types: list[int]) -> float:
        """Make the tables of all pairs of some types, or the one that serves all of them.

        Returns:
            Largest error of a value or slope over the bound: above 1 they are not good enough.
        """
        if len(types) == 0:
            self.table, self.cutoffs = self.table[:0, :0], self.cutoffs[:0]
            return 0.0
        pairs: list[tuple[int, int]] = []
        row_of_type = torch.full_like(self.row_of_type, -1)
        for row, centre in enumerate(types):
            row_of_type[centre] = 0 if self.is_same else row
            for neighbour in types:
                if not self.is_same:
                    pairs.append((centre, neighbour))
        if self.is_same:
            pairs.append((0, 0))
            if self.table.size(0) == 1:
                self.row_of_type = row_of_type
                return self.error
        self.num_knots, errors = self.maker.needed(pairs)
        # One after the other: in float64 all of them would take a gigabyte for three types.
        rows: list[torch.Tensor] = []
        cutoffs: list[torch.Tensor] = []
        for centre, neighbour in pairs:
            cutoff = self.maker.all_cutoffs[centre, neighbour]
            curve = self.maker.curve(centre, neighbour, cutoff, self.num_knots)
            steps = with_steps(curve.unsqueeze(0)).to(self.dtype)
            rows.append(pack_groups(steps, self.groups, self.block))
            cutoffs.append(cutoff)
        self.table, self.cutoffs = torch.cat(rows), torch.stack(cutoffs)
        self.row_of_type = row_of_type
        self.error = float(errors.max()) / self.maker.bound
        return self.error

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

        As :class:`kan_md.ops.modules.Convolution` gives them. Where there are edges, types that
        were not chosen are refused.
        """
        rows = self.row_of_type[atom_types]
        if edge_index.size(1) == 0:
            rows = torch.zeros_like(rows)
        assert bool((rows >= 0).all()), "atoms of elements that were not chosen"
        return torch.ops.kan_md.messages_of_first(
            edge_vectors,
            x,
            edge_index,
            rows,
            self.table,
            self.cutoffs,
            self.couplings,
            self.irreps_in,
            self.paths,
            self.num_knots,
            num_centres,
            centre_types,
        )


class PolynomialOfChosen(torch.nn.Module):
    """:class:`kan_md.ops.modules.PolynomialOfComponents` for types that are chosen later.

    Args:
        program: see :class:`kan_md.ops.layout.Polynomial`.
        couplings: [num_terms, num_paths] float64.
        weights: [num_types, num_paths, channels]; times the couplings they are the coefficients.
        components: rows of the blocks that go in, 2l+1 each.
        outputs: rows of the blocks that come out.
    """

    def __init__(
        self,
        program: torch.Tensor,
        couplings: torch.Tensor,
        weights: torch.Tensor,
        *,
        components: list[int],
        outputs: list[int],
    ):
        super().__init__()
        load()
        self.register_buffer("program", program)
        self.register_buffer("couplings", couplings)
        self.register_buffer("weights", weights)
        self.components: list[int] = components
        self.outputs: list[int] = outputs
        self.block: int = block_of(weights.dtype)
        self.register_buffer("coefficients", weights.new_zeros(0, 0, 0, 0))
        self.register_buffer("row_of_type", torch.full((len(weights),), -1))

    def choose(self, types: list[int]) -> float:
        """Multiply out the coefficients of some types.

        Returns:
            Zero: nothing is approximated.
        """
        row_of_type = torch.full_like(self.row_of_type, -1)
        for row, number in enumerate(types):
            row_of_type[number] = row
        with torch.no_grad():
            weights = self.weights[torch.tensor(types, dtype=torch.int64)]
            values = torch.matmul(self.couplings, weights.double()).to(weights.dtype)
            self.coefficients = pack_terms(values, self.block)
        self.row_of_type = row_of_type
        return 0.0

    def forward(
        self, a: torch.Tensor, atom_types: torch.Tensor, num_centres: torch.Tensor
    ) -> torch.Tensor:
        """[num_atoms * components, channels] -> [num_atoms * outputs, channels].

        Those of all but the first ``num_centres`` [1] atoms are zero. Types that were not chosen
        are refused, unless no atom has neighbours.
        """
        rows = self.row_of_type[atom_types]
        if not bool((rows >= 0).all()):
            assert bool((a == 0).all()), "atoms of elements that were not chosen"
            rows = torch.zeros_like(rows)
        return torch.ops.kan_md.polynomial(
            a,
            rows,
            self.coefficients,
            self.program,
            self.components,
            self.outputs,
            num_centres,
        )
