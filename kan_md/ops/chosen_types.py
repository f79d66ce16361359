"""Convolutions whose tables are made when the elements of a run are chosen.

Functions that differ from pair to pair of elements would take a table for each pair: thousands for
a model of the whole periodic table, of which a run needs a few. So a file of many elements holds
the network of these functions, and makes tables of the chosen ones by itself. ``chosen`` is the
order of their rows.
"""

from __future__ import annotations

import torch

from kan_md.ops.layout import ConvolutionSpec, block_of, pack_groups, with_steps
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
        self.register_buffer("couplings", couplings)
        self.register_buffer("table", torch.zeros(0, 0, dtype=dtype))
        self.register_buffer("cutoffs", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("row_of_type", torch.full((num_types,), -1))
        self.num_knots: int = 0

    def choose(self, types: list[int]) -> float:
        """Make the tables of all pairs of some types.

        Returns:
            Largest error of a value or slope over the bound: above 1 they are not good enough.
        """
        if len(types) == 0:
            self.table, self.cutoffs = self.table[:0, :0], self.cutoffs[:0]
            return 0.0
        pairs: list[tuple[int, int]] = []
        row_of_type = torch.full_like(self.row_of_type, -1)
        for row, centre in enumerate(types):
            row_of_type[centre] = row
            for neighbour in types:
                pairs.append((centre, neighbour))
        values, cutoffs, errors = self.maker(pairs)
        self.table = pack_groups(with_steps(values).to(self.dtype), self.groups, self.block)
        self.cutoffs = cutoffs
        self.num_knots = values.size(1)
        self.row_of_type = row_of_type
        return float(errors.max()) / self.maker.bound

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
