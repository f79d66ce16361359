"""Files of many elements: no cost grows with the square of their number."""

from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import save_checkpoint
from kan_md.model.convert import convert_model
from kan_md.model.random_structures import random_structures
from kan_md.ops.tables import TableMaker
from kan_md_deploy import deploy, load_deployed

NUMBERS = [1, 6, 7, 8, 13, 14]
MORE = [*NUMBERS, *range(20, 24)]
TABLES = ("table", "cutoffs", "coefficients")
DENSITY = {
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
}
AGNESI = {"distance_transform": "Agnesi"}
SHAPES = {
    "one table for all pairs": {},
    "repulsion": AGNESI | {"pair_repulsion": True},
    "densities": AGNESI | DENSITY,
    "one layer, Soft": {"distance_transform": "Soft", "num_interactions": 1},
}

ERRORS = {"float32": 2e-5, "float64": 1e-8}
DEPLOYED = [*((name, "float32") for name in SHAPES), ("densities", "float64")]


@pytest.fixture(scope="module")
def upstream(mace_torch_model, tmp_path_factory):
    """Files of mace-torch's models with few channels and many elements."""
    from kan_md.backbones.mace import import_mace

    known = import_mace().interaction_classes
    folder = tmp_path_factory.mktemp("upstream")

    @cache
    def make(name: str, many: bool = False):
        changes = {k: known.get(v, v) for k, v in SHAPES[name].items()}
        path = folder / f"{name}-{many}.model"
        torch.save(mace_torch_model(MORE if many else NUMBERS, **changes), path)
        return path

    return make


def structures(elements: list[str]) -> list[Atoms]:
    return random_structures(elements, 1, rng=np.random.default_rng(4), repeats=(1, 1, 2))


@pytest.fixture(scope="module")
def converted(upstream):
    """Their model.pth."""

    @cache
    def make(name: str, many: bool = False):
        source = upstream(name, many)
        result = convert_model(source, trust=True, structures=structures(["O", "Si"]))
        return save_checkpoint(result.checkpoint, source.with_suffix(".pth"))

    return make


@pytest.fixture(scope="module")
def files(converted):
    """And that deployed."""

    @cache
    def make(name: str, many: bool = False, dtype: str = "float32"):
        source = converted(name, many)
        return deploy(source, source.with_suffix(f".{dtype}.deployed.pth"), dtype=dtype)

    return make


def numbers_in_tables(module: torch.jit.ScriptModule) -> dict[str, int]:
    """Sizes of everything that is made when elements are chosen."""
    return {
        name: value.numel()
        for name, value in module.named_buffers()
        if name.rsplit(".", 1)[-1] in TABLES
    }


@pytest.mark.parametrize(("name", "dtype"), DEPLOYED)
def test_chosen_elements_have_upstreams_energies_and_forces(upstream, files, name, dtype):
    from mace.calculators import MACECalculator

    file = load_deployed(files(name, dtype=dtype))
    assert file.manifest.dtype == dtype
    assert file.manifest.passes["fused_mace"]["tables"] == "made when elements are chosen"
    original = torch.load(upstream(name), weights_only=False)
    with nequip_settings():
        calculator = MACECalculator(models=[original], device="cpu", default_dtype="float64")
        # other elements, and back: tables are made again
        for elements in (["Si", "O"], ["H", "N", "Al"], ["O"], ["Si", "O"]):
            (atoms,) = structures(elements)
            found = file.predict(atoms)
            atoms.calc = calculator
            forces = atoms.get_forces()
            scale = np.abs(forces).max()
            assert scale > 1e-3
            error = ERRORS[dtype]
            assert np.abs(found["forces"] - forces).max() < error * scale
            difference = found["energy"] - atoms.get_potential_energy()
            assert abs(difference) < error * len(atoms)


def test_nothing_grows_with_the_square_of_the_elements(files):
    sizes, made = [], []
    for many in (False, True):
        path = files("repulsion", many)
        sizes.append(path.stat().st_size)
        module = torch.jit.load(str(path))
        assert sum(numbers_in_tables(module).values()) == 0
        types = [load_deployed(path).type_names.index(name) for name in ("N", "O")]
        assert module.choose_types(types) <= 1.0
        made.append(numbers_in_tables(module))
    assert made[0] == made[1]  # of two elements, whatever the file has
    assert min(made[0].values()) > 0
    assert sizes[1] - sizes[0] < 0.5 * sizes[0]  # 10 elements for 6


def test_isolated_atoms_of_any_element_have_their_energies(files):
    file = load_deployed(files("repulsion"))
    energies = [file.predict(Atoms(name))["energy"] for name in file.type_names]
    np.testing.assert_allclose(energies, file.manifest.isolated_energies, atol=1e-5)


def test_atoms_of_elements_that_are_not_chosen_are_refused(files):
    module = torch.jit.load(str(files("repulsion")))
    vectors = torch.tensor([[1.5, 0.0, 0.0], [-1.5, 0.0, 0.0]], dtype=torch.float64)
    graph = vectors, torch.tensor([[0, 1], [1, 0]]), torch.tensor([0, 3]), torch.tensor([2])
    for chosen in ([], [3]):
        if chosen:
            assert module.choose_types(chosen) <= 1.0
        with pytest.raises(torch.jit.Error, match="elements that were not chosen"):
            module(*graph)
    module.choose_types([0, 3])
    assert module(*graph)[1].abs().max() > 0


def test_tables_beyond_the_bound_are_refused(converted, tmp_path, monkeypatch):
    monkeypatch.setitem(TableMaker.__init__.__kwdefaults__, "most_knots", 65)
    with pytest.raises(KanMdError, match=r"tables of .*errors of .* times the bound"):
        deploy(converted("repulsion"), tmp_path / "coarse.deployed.pth", bound=1e-9)
