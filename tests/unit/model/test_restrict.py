"""A model of many elements cut down to a few; what it is deployed as."""

import numpy as np
import pytest
import torch
from ase import Atoms

from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.convert import convert_model
from kan_md.model.random_structures import random_structures
from kan_md.model.reference import evaluate
from kan_md.model.restrict import parse_elements, restrict
from kan_md_deploy import deploy
from kan_md_deploy.archive import read_manifest
from kan_md_deploy.options import default_dtype

NAMES = ("H", "O", "Al", "Si", "Ti")
KEPT = ["O", "Si", "Ti"]
ZBL = {"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal", "chemical_species": NAMES}
MODELS = {
    "mace": {
        "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
    "mace, density": {
        "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    },
    "mace, non-linear": {"interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock"},
    "mace, one product for all, kan per type": {
        "use_agnostic_product": True,
        "readout": {"kind": "kan", "per_type": True},
    },
    "allegro": {
        "per_edge_type_cutoff": {"H": 2.5, "O": {"Si": 3.0, "Ti": 3.5}, "Ti": {"O": 3.2}},
        "pair_potential": ZBL,
        "avg_num_neighbors": dict(zip(NAMES, (9.0, 12.0, 15.0, 18.0, 21.0), strict=True)),
    },
    "allegro, splines": {
        "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodySplineScalarEmbed"}
    },
    "nequip": {"pair_potential": ZBL, "per_type_energy_scales": {n: 1.0 + len(n) for n in NAMES}},
}


def structures() -> list[Atoms]:
    close = Atoms("SiOTi", [[0.0, 0.0, 0.0], [0.3, 0.1, 1.2], [2.0, 1.0, 0.4]])
    return [*random_structures(KEPT, 1, rng=np.random.default_rng(4)), close]


@pytest.mark.parametrize("name", MODELS)
def test_few_elements_have_the_whole_models_energies(tiny_checkpoint, name):
    path = tiny_checkpoint(name.split(",")[0], type_names=NAMES, r_max=3.8, **MODELS[name])
    checkpoint = load_checkpoint(path)
    small = restrict(checkpoint, ["Ti", "Si", "O"])
    assert small.type_names == KEPT
    whole, part = checkpoint.build(), small.build()
    for atoms in structures():
        ours, theirs = evaluate(part, atoms), evaluate(whole, atoms)
        torch.testing.assert_close(ours["energy"], theirs["energy"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours["forces"], theirs["forces"], rtol=1e-9, atol=1e-9)
        assert theirs["forces"].abs().max() > 1e-3
    assert all(frame["atom_types"].max() < 3 for frame in small.reference_frames)


def test_all_elements_are_the_model_itself_and_others_are_named(tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint("allegro", type_names=NAMES))
    assert restrict(checkpoint, NAMES) is checkpoint
    with pytest.raises(KanMdError, match="does not know, got Fe; allowed: H, O, Al, Si, Ti"):
        restrict(checkpoint, ["O", "Fe"])


def test_elements_are_written_with_spaces_or_commas():
    assert parse_elements("Si,O") == parse_elements("Si O") == parse_elements(["Si", "O"])
    assert parse_elements(None) is None
    with pytest.raises(KanMdError, match="must be symbols, got Foo"):
        parse_elements("Si Foo")


def test_deploy_and_convert_keep_the_elements_that_are_asked_for(
    tiny_checkpoint, mace_torch_model, tmp_path, capsys
):
    path = str(tiny_checkpoint("allegro", type_names=NAMES))
    output = tmp_path / "few.deployed.pth"
    with pytest.raises(SystemExit) as ended:
        main(["deploy", path, "--elements", "Si", "O", "-o", str(output)])
    assert ended.value.code == 0, capsys.readouterr().err
    assert read_manifest(output).type_names == ("O", "Si")
    torch.save(mace_torch_model([1, 8, 14]), tmp_path / "foo.model")
    with pytest.raises(SystemExit) as ended:
        main(["convert", "--elements", "Si", "O", str(tmp_path / "foo.model"), "--trust"])
    assert ended.value.code == 0, capsys.readouterr().err
    assert load_checkpoint(tmp_path / "foo.pth").type_names == ["O", "Si"]


def test_converted_float64_is_deployed_in_float32_unless_chosen(mace_torch_model, tmp_path):
    torch.save(mace_torch_model([8, 14], num_interactions=1), tmp_path / "foo.model")
    found = {}
    for chosen in (None, "float64"):
        result = convert_model(tmp_path / "foo.model", trust=True, model_dtype=chosen)
        assert result.checkpoint.dtype == "float64"
        found[chosen] = default_dtype(result.checkpoint)
    assert found == {None: "float32", "float64": "float64"}
    result.checkpoint.training_summary = {}
    assert default_dtype(result.checkpoint) == "float64"  # chosen in a training of kan-md


def test_tables_of_too_many_pairs_are_refused_with_the_remedy(tiny_checkpoint, monkeypatch):
    path = tiny_checkpoint("mace", type_names=NAMES, r_max=3.8, **MODELS["mace"])
    monkeypatch.setattr("kan_md_deploy.passes.tables.size.MOST_COLUMNS", 150)
    with pytest.raises(KanMdError, match=r"functions of 25 pairs; .*keep some of .*--elements"):
        deploy(path, path.with_name("many.deployed.pt2"), backend="aotinductor")
