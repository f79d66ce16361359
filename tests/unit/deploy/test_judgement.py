"""A pass that changes what a model says is refused, whatever it changes: energies above all.

A wrong energy with right forces goes unseen in a trajectory, and is wrong in every formation
energy, every Monte Carlo step and every comparison of phases.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from nequip.nn import PerTypeScaleShift

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.tasks.judgement import hold
from kan_md.tasks.potential_deviation import check, deviation
from kan_md.tasks.potential_function import make_edge_model
from kan_md.tasks.tensor_deviation import tensor_deviations
from kan_md_deploy import compilation, deploy
from kan_md_deploy.judged_graphs import close_dimers, judged_graphs

ALLOY = {"type_names": ("Cu", "Au")}
PLAIN = {"operators": "portable"}  # the harm finds what it changes

SCALED = ALLOY | {"per_type_energy_scales": {"Cu": 1.5, "Au": 2.0}}
ZBL = {
    "_target_": "nequip.nn.pair_potential.ZBL",
    "units": "metal",
    "chemical_species": ["Cu", "Au"],
}


def scale_shift_of(model):
    (found,) = (m for m in model.modules() if isinstance(m, PerTypeScaleShift))
    return found


def shifts_of(model):
    return scale_shift_of(model).shifts


def lose_a_shift(model):
    shifts_of(model)[1] = 0.0


def swap_shifts(model):
    shifts_of(model).copy_(shifts_of(model).flip(0))


def shift_a_little(model):
    shifts_of(model)[0] += 0.01


def lose_the_scales(model):
    scale_shift_of(model).scales.fill_(1.0)


class WithoutConstant(torch.nn.Module):
    """Atoms without neighbours lack 10 meV."""

    def __init__(self, rest):
        super().__init__()
        self.rest = rest

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        data = self.rest(data)
        energy = data["atomic_energy"]
        neighbours = torch.bincount(data["edge_index"][0], minlength=energy.size(0))
        data["atomic_energy"] = energy - 0.01 * (neighbours == 0).to(energy.dtype).view(-1, 1)
        return data


def drop_a_constant(model):
    model.model.func = WithoutConstant(model.model.func)


def sabotage(monkeypatch, harm):
    """Let a pass that the pipeline runs do harm."""
    run = compilation.run_passes

    def run_passes(model, passes, context):
        reports = run(model, passes, context)
        with torch.no_grad():
            harm(model)
        return reports

    monkeypatch.setattr(compilation, "run_passes", run_passes)


@pytest.mark.parametrize(
    ("backbone", "dtype", "keywords", "harm", "message"),
    [
        ("allegro", "float32", ALLOY, lose_a_shift, "isolated atoms"),
        ("allegro", "float64", ALLOY, swap_shifts, "isolated atoms"),
        ("nequip", "float32", ALLOY, shift_a_little, "isolated atoms"),
        ("mace", "float32", ALLOY, swap_shifts, "isolated atoms"),
        ("nequip", "float64", ALLOY, drop_a_constant, "isolated atoms"),
        ("allegro", "float32", ALLOY, drop_a_constant, "isolated atoms"),
        ("allegro", "float64", SCALED, lose_the_scales, "force error"),
        ("allegro", "float32", SCALED, lose_the_scales, "force error"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_pass_that_changes_energies_is_refused(
    tiny_checkpoint, tmp_path, monkeypatch, dtype, backbone, keywords, harm, message
):
    sabotage(monkeypatch, harm)
    with pytest.raises(KanMdError, match=rf"compiled model differs .* {message}") as refused:
        deploy(tiny_checkpoint(backbone, **keywords), tmp_path / "x.pth", dtype=dtype, **PLAIN)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backbone", ["allegro", "nequip", "mace"])
def test_lost_repulsion_is_refused_though_no_frame_has_atoms_so_close(
    tiny_checkpoint, tmp_path, monkeypatch, backbone
):
    part = {"pair_repulsion": True} if backbone == "mace" else {"pair_potential": ZBL}
    checkpoint = load_checkpoint(tiny_checkpoint(backbone, **ALLOY, **part))
    with nequip_settings():
        whole = checkpoint.build("float64")
        lost = copy.deepcopy(whole)
        network = lost.model.func
        name = "pair_repulsion" if backbone == "mace" else "pair_potential"
        setattr(network, name, torch.nn.Identity())
        functions = make_edge_model(lost), make_edge_model(whole)
    groups = judged_graphs(checkpoint)
    found = deviation(*functions, groups["atoms close to each other"])
    with pytest.raises(KanMdError, match="compiled model differs"):
        check(found, precision="float32", rounding=0.0, bound=1e-6)


def test_type_that_no_frame_has_is_judged(tiny_checkpoint, tmp_path, monkeypatch):
    checkpoint = load_checkpoint(tiny_checkpoint("allegro", **SCALED))
    frame = checkpoint.reference_frames[0]
    checkpoint.reference_frames = [{**frame, "atom_types": torch.zeros_like(frame["atom_types"])}]
    source = save_checkpoint(checkpoint, tmp_path / "model.pth")

    def change_gold(model):
        scale_shift_of(model).scales[1] *= 1.001

    sabotage(monkeypatch, change_gold)
    with pytest.raises(
        KanMdError, match="differs from the trained one on a made-up crystal of all"
    ):
        deploy(source, tmp_path / "x.pth", **PLAIN)


def test_energy_without_the_isolated_atoms_is_judged(tiny_checkpoint):
    """Forces and isolated atoms are right, a constant per bound atom is not."""
    checkpoint = load_checkpoint(tiny_checkpoint("nequip", **ALLOY))
    exact = make_edge_model(checkpoint.build("float64"))

    def wrong(vectors, index, types, num_local):
        energy, edge_forces = exact(vectors, index, types, num_local)
        bound = torch.bincount(index[0], minlength=len(types)) > 0
        return energy + 0.01 * bound.view(-1, 1), edge_forces

    graphs = judged_graphs(checkpoint)["the reference frames"]
    found = deviation(wrong, exact, graphs)
    assert found.energy == pytest.approx(0.01)
    assert found.force == found.virial == found.isolated == 0.0
    with pytest.raises(KanMdError, match=r"relative energy error .* of bound atoms"):
        check(found, precision="float32", rounding=0.0, bound=1e-6)
    check(replace(found, binding=9e-6), precision="float32", rounding=0.0, bound=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_reference_energies_are_no_reason_to_refuse(tiny_checkpoint, tmp_path, dtype):
    """All-electron energies, of which the last digit is as large as 1e-10 eV."""
    shifts = {"Cu": -45054.0, "Au": -518277.0}
    source = tiny_checkpoint("nequip", **ALLOY, per_type_energy_shifts=shifts)
    path = deploy(source, tmp_path / "x.pth", dtype=dtype, **PLAIN)
    assert path.is_file()


def test_dimers_are_all_pairs_of_few_types_and_every_one_of_many():
    vectors, index, types, num_local = close_dimers((1, 29, 79), 5.0)
    assert int(num_local) == len(types) == 2 * 6
    assert sorted(map(tuple, types.view(-1, 2).sort(1).values.tolist())) == [
        (0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)
    ]  # fmt: skip
    torch.testing.assert_close(vectors[::2], -vectors[1::2])
    radii = {0: 0.31, 1: 1.32, 2: 1.36}  # Cordero et al., Dalton Trans. 2008, 2832
    expected = [0.7 * (radii[int(a)] + radii[int(b)]) for a, b in types[index.t()].tolist()]
    np.testing.assert_allclose(vectors.norm(dim=1), expected)
    many = close_dimers(range(1, 90), 6.0)
    assert set(many[2].tolist()) == set(range(89))
    assert close_dimers((55,), 3.0)[0].shape == (0, 3)  # beyond the cutoff


def test_every_tensor_is_judged_by_its_own_size():
    """A small tensor beside a large one, and one that is zero by symmetry."""
    rows = torch.tensor([[100.0, 100.0, 1e-3, 0.0]], dtype=torch.float64)
    change = torch.tensor([[0.0, 0.0, 1e-5, 1e-12]], dtype=torch.float64)
    graph = (
        torch.ones(1, 3, dtype=torch.float64),
        torch.zeros(2, 1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        torch.ones(1, dtype=torch.int64),
    )
    columns = {"large": slice(0, 2), "small": slice(2, 3), "none": slice(3, 4)}
    found = tensor_deviations(lambda *_: (rows + change,), lambda *_: (rows,), [graph], columns)
    assert found == pytest.approx({"large": 0.0, "small": 1e-2, "none": 1e-8})


@pytest.mark.parametrize(
    ("precision", "remedy"),
    [
        ("float64", "deploy with `--passes none`"),
        ("float32", "deploy with `--passes none` or `--dtype float64`"),
    ],
)
def test_the_remedy_is_one_that_is_left(precision, remedy):
    with pytest.raises(KanMdError) as error:
        hold(1e-3, 1e-5, found="relative force error 1.0e-03", precision=precision)
    assert str(error.value).endswith(f"allowed: 1.0e-05 for {precision}; {remedy}")
