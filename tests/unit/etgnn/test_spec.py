"""What a user may ask for, and how mistakes are told."""

import pytest

from kan_md.backbones.etgnn import TensorSpec, parse_tensors
from kan_md.errors import KanMdError


def test_the_default_is_the_born_charge():
    (spec,) = parse_tensors(None)
    assert (spec.name, spec.rank, spec.per, spec.symmetry) == ("bec", 2, "atom", "full")
    assert spec.projects
    assert spec.label_unit == "e"
    assert spec.manifest_entry(0)["index_order"] == "[3*i+j] = dF_j/dE_i"


def test_only_born_charges_are_projected_by_default():
    assert not TensorSpec(name="charges", rank=0).projects
    assert TensorSpec(name="charges", rank=0, acoustic_sum_rule=True).projects
    assert not TensorSpec(name="bec", acoustic_sum_rule=False).projects


def test_component_names_have_the_last_index_fastest():
    names = TensorSpec(name="piezo_like", rank=3).component_names()
    assert names[:4] == ["xxx", "xxy", "xxz", "xyx"]
    assert names[-1] == "zzz"
    assert len(names) == 27
    assert TensorSpec(name="charges", rank=0).component_names() == [""]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"name": "q", "rank": 4}, r"tensors\[0\].rank, got 4; allowed: <= 3"),
        (
            {"name": "q", "rank": 0, "symmetry": "traceless"},
            "symmetry of rank 0 must be one of full",
        ),
        (
            {"name": "q", "rank": 3, "symmetry": "traceless"},
            "rank 3 must be one of full, symmetric",
        ),
        ({"name": "q", "symmetry": "sym"}, r"'full', 'symmetric' or 'traceless'"),
        (
            {"name": "q", "columns": 9},
            r"unknown configuration key, got tensors\[0\].columns; allowed: name, rank",
        ),
        ({"name": "2 q"}, r"tensors\[0\].name"),
        (["bec", "born_effective_charges"], "one or more different names"),
        ([], "one or more different names"),
        (
            {"name": "polarization", "rank": 1, "per": "structure", "acoustic_sum_rule": True},
            "acoustic_sum_rule needs per: atom",
        ),
    ],
)
def test_mistakes_are_told(tensors, message):
    with pytest.raises(KanMdError, match=message):
        parse_tensors(tensors)


def test_a_name_that_means_something_else_is_refused():
    with pytest.raises(KanMdError, match="a name that already stands for a graph field"):
        TensorSpec(name="total_energy", rank=0, per="atom").register()
