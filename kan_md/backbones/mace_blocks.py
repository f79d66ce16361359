"""mace-torch's blocks that TorchScript cannot compile as they are: same submodules, same numbers.

A block here takes over the parts of upstream's, so that weights keep their names. What is in the
way upstream: a return type that is annotated wrongly, properties of a type that TorchScript does
not know, and a static method of a class that it meets nowhere else.
"""

from __future__ import annotations

import torch
from e3nn.util.jit import compile_mode


def make_scriptable(interaction: torch.nn.Module) -> torch.nn.Module:
    """Exchange what TorchScript cannot compile in one of mace-torch's interaction blocks."""
    if hasattr(interaction, "skip_linear"):
        return AttentionInteraction(interaction)
    if hasattr(interaction, "equivariant_nonlin"):
        interaction.equivariant_nonlin = Gate(interaction.equivariant_nonlin)
    return interaction


def make_differentiable(radial_embedding: torch.nn.Module) -> None:
    """Exchange what torch does not differentiate in mace-torch's radial embedding.

    ``torch.special.chebyshev_polynomial_t`` has no derivative and does not say so: forces would be
    those of the cutoff alone.
    """
    basis = radial_embedding.bessel_fn
    if type(basis).__name__ == "ChebychevBasis":
        radial_embedding.bessel_fn = ChebyshevBasis(basis)


@compile_mode("script")
class ChebyshevBasis(torch.nn.Module):
    """``ChebychevBasis``: T_n(r) for n = 1 ... num_basis, by T_{n+1} = 2 r T_n - T_{n-1}.

    Args:
        basis: of mace-torch.
    """

    def __init__(self, basis: torch.nn.Module):
        super().__init__()
        self.register_buffer("n", basis.n)
        self.num_basis = int(basis.num_basis)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[num_edges, 1], Å -> [num_edges, num_basis]."""
        before, present = torch.ones_like(x), x
        found = [present]
        for _ in range(self.num_basis - 1):
            before, present = present, 2.0 * x * present - before
            found.append(present)
        return torch.cat(found, dim=1)


@compile_mode("script")
class AttentionInteraction(torch.nn.Module):
    """``RealAgnosticAttResidualInteractionBlock``: radial weights see both ends' features.

    m_i = W Σ_j TP(W_up h_j, Y(r_ij); MLP[e(r_ij), W_down h_j, W_down h_i]) / avg_num_neighbors,
    beside W_skip h_i.

    Args:
        block: of mace-torch.
    """

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)
        self.irreps_out = block.irreps_out
        self.avg_num_neighbors = float(block.avg_num_neighbors)

    def forward(
        self,
        node_attrs: torch.Tensor,
        node_feats: torch.Tensor,
        edge_attrs: torch.Tensor,
        edge_feats: torch.Tensor,
        edge_index: torch.Tensor,
        cutoff: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Messages [num_atoms, channels, (l_max+1)²] and the skip connection."""
        sender, receiver = edge_index[0], edge_index[1]
        ends = self.linear_down(node_feats)
        radial = torch.cat([edge_feats, ends[sender], ends[receiver]], dim=-1)
        weights = self.conv_tp_weights(radial)
        if cutoff is not None:
            weights = weights * cutoff
        up = self.linear_up(node_feats)
        parts = self.conv_tp(up[sender], edge_attrs, weights)  # [num_edges, irreps]
        message = torch.zeros(
            node_feats.size(0), parts.size(1), dtype=parts.dtype, device=parts.device
        ).index_add(0, receiver, parts)
        message = self.linear(message) / self.avg_num_neighbors
        return self.reshape(message), self.skip_linear(node_feats)


@compile_mode("script")
class Gate(torch.nn.Module):
    """``GatedEquivariantBlock``: SiLU of the scalars, the rest times the sigmoid of gates.

    Both functions are scaled to a second moment of one, as upstream and e3nn do.

    Args:
        gate: of mace-torch, with e3nn's layout of features.
    """

    def __init__(self, gate: torch.nn.Module):
        super().__init__()
        known = (torch.nn.functional.silu, torch.nn.functional.sigmoid)
        assert (gate._act_scalar, gate._act_gate or known[1]) == known, "only upstream's own gate"
        assert not gate._layout_is_ir_mul, "features come with the channel first"
        self.irreps_in, self.irreps_out = gate.irreps_in, gate.irreps_out
        self.scalars: tuple[int, int] = (gate._s_start, gate._s_len)
        self.gates: tuple[int, int] = (gate._g_start, gate._g_len)
        self.scalar_factor, self.gate_factor = float(gate._scalar_cst), float(gate._gate_cst)
        self.gated = tuple(tuple(part) for part in gate._gated_info)  # may be empty

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[num_atoms, irreps_in.dim] -> [num_atoms, irreps_out.dim]."""
        start, length = self.scalars
        scalars = features.narrow(-1, start, length)
        parts = [torch.nn.functional.silu(scalars) * self.scalar_factor]
        start, length = self.gates
        gates = torch.sigmoid(features.narrow(-1, start, length)) * self.gate_factor
        for first, size, components, channels, offset in self.gated:
            vectors = features.narrow(-1, first, size).view(-1, channels, components)
            factors = gates.narrow(-1, offset, channels).unsqueeze(-1)
            parts.append((vectors * factors).flatten(1))
        return torch.cat(parts, dim=-1)


@compile_mode("script")
class ZBLRepulsion(torch.nn.Module):
    """``ZBLBasis``: the Ziegler-Biersack-Littmark potential, cut off between covalent radii.

    V(r) = k Z_i Z_j / r · φ(r/a) · u(r/r_c), φ(x) = Σ_k c_k exp(-d_k x),
    a = a_prefactor · 0.529 Å / (Z_i^a_exp + Z_j^a_exp), k = 14.3996 eV Å, r_c the sum of the
    covalent radii and u MACE's polynomial; half of it belongs to either atom.

    Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985); constants
    and cutoff as in mace-torch.

    Args:
        basis: of mace-torch.
    """

    def __init__(self, basis: torch.nn.Module):
        super().__init__()
        for name, parameter in basis.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in basis.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.exponents = (3.2, 0.9423, 0.4028, 0.2016)

    def forward(
        self,
        lengths: torch.Tensor,
        node_attrs: torch.Tensor,
        edge_index: torch.Tensor,
        atomic_numbers: torch.Tensor,
    ) -> torch.Tensor:
        """Energy of every atom, [num_atoms], eV.

        Args:
            lengths: [num_edges, 1], Å.
            node_attrs: [num_atoms, num_types], one-hot types.
            edge_index: [2, num_edges].
            atomic_numbers: [num_types].
        """
        numbers = atomic_numbers[node_attrs.argmax(dim=1)].to(torch.int64)
        first, second = numbers[edge_index[0]], numbers[edge_index[1]]  # [num_edges]
        r = lengths.view(-1)
        powers = torch.pow(first, self.a_exp) + torch.pow(second, self.a_exp)
        x = r * powers / (self.a_prefactor * 0.529)
        screening = torch.zeros_like(r)
        for k, exponent in enumerate(self.exponents):
            screening = screening + self.c[k] * torch.exp(-exponent * x)
        energy = 14.3996 * first * second / r * screening
        cutoff = self.covalent_radii[first] + self.covalent_radii[second]
        energy = 0.5 * energy * polynomial_cutoff(r / cutoff, self.p)
        total = torch.zeros(numbers.size(0), dtype=energy.dtype, device=energy.device)
        return total.index_add(0, edge_index[1], energy)


def polynomial_cutoff(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """MACE's cutoff u(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2), 0 for x ≥ 1.

    Source: Gasteiger, Groß, Günnemann, ICLR 2020, eq. 8.
    """
    inside = (
        1.0
        - (p + 1.0) * (p + 2.0) / 2.0 * torch.pow(x, p)
        + p * (p + 2.0) * torch.pow(x, p + 1)
        - p * (p + 1.0) / 2.0 * torch.pow(x, p + 2)
    )
    return inside * (x < 1.0)
