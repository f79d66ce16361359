"""The options of upstream's builders that the table of variants goes through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from results.experiments.variants_models import ELEMENTS, Variant

INTERACTIONS = (
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
)
"""Of mace-torch; a test holds them against what it offers."""
READOUTS = (
    "NonLinearReadoutBlock",
    "NonLinearBiasReadoutBlock",
    "GeneralNonLinearBiasReadoutBlock",
)
"""Of mace-torch, the ones for energies."""

_ZBL = {
    "_target_": "nequip.nn.pair_potential.ZBL",
    "units": "metal",
    "chemical_species": list(ELEMENTS),
}
_LJ = {
    "_target_": "nequip.nn.pair_potential.LennardJones",
    "lj_sigma": 1.5,
    "lj_epsilon": 0.05,
}
_CUTOFFS = {"Si": {"Si": 3.0, "O": 3.5}, "O": 2.5}
_NEIGHBOURS = {"Si": 10.0, "O": 30.0}
_BESSEL = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"}
_SPLINE = {"_target_": "allegro.nn.TwoBodySplineScalarEmbed"}
_FULL_ALLEGRO = "allegro.model.allegro_models.FullAllegroModel"
_FULL_NEQUIP = "nequip.model.nequip_models.FullNequIPGNNModel"
_TWO_HEADS = {
    "heads": ["first", "second"],
    "atomic_energies": [[-1.5, -2.8], [-3.0, -5.0]],
    "atomic_inter_scale": [0.5, 1.5],
    "atomic_inter_shift": [0.0, 0.25],
}


def variants() -> list[Variant]:
    """All of them, in the order of the table."""
    return [*_allegro(), *_nequip(), *_mace()]


def _each(
    backbone: str, group: str, named: Mapping[str, Mapping[str, Any]], *, common: tuple[str, ...]
) -> Iterator[Variant]:
    """A variant per entry, of which ``without`` and ``head`` are no changes."""
    for name, given in named.items():
        changes = dict(given)
        yield Variant(
            backbone,
            group,
            name,
            without=changes.pop("without", ()),
            head=changes.pop("head", None),
            changes=changes,
            is_common=name in common,
        )


def _allegro() -> Iterator[Variant]:
    architecture = {
        "as it is": {},
        **{f"l_max {n}": {"l_max": n} for n in (0, 2, 3)},
        "no parity": {"parity": False},
        "1 layer": {"num_layers": 1},
        "3 layers": {"num_layers": 3},
        "paths apart from channels": {"tp_path_channel_coupling": False},
        "no weights per irreps": {"weight_individual_irreps": False},
        "by irreps": {
            "_target_": _FULL_ALLEGRO,
            "without": ("l_max",),
            "irreps_edge_sh": "1x0e+1x1o",
            "tensor_track_allowed_irreps": "1x0e+1x1o",
        },
        "irreps without scalars in between": {
            "_target_": _FULL_ALLEGRO,
            "without": ("l_max",),
            "irreps_edge_sh": "1x0e+1x1o+1x2e",
            "tensor_track_allowed_irreps": "1x0e+1x1o",
        },
    }
    networks = {
        "latents without hidden layers": {"allegro_mlp_hidden_layers_depth": 0},
        "latents of two hidden layers": {"allegro_mlp_hidden_layers_depth": 2},
        "latents mish": {"allegro_mlp_nonlinearity": "mish"},
        "latents gelu": {"allegro_mlp_nonlinearity": "gelu"},
        "latents tanh": {"allegro_mlp_nonlinearity": "tanh"},
        "latents linear": {"allegro_mlp_nonlinearity": None},
        "two-body network without hidden layers": {"scalar_embed_mlp_hidden_layers_depth": 0},
        "two-body network gelu": {"scalar_embed_mlp_nonlinearity": "gelu"},
        "readout linear": {"readout_mlp_hidden_layers_depth": 0},
        "readout of two hidden layers, mish": {
            "readout_mlp_hidden_layers_depth": 2,
            "readout_mlp_nonlinearity": "mish",
        },
        "normalised backwards": {"forward_normalize": False},
    }
    radial = {
        "Bessel functions trained, p 9": {
            "radial_chemical_embed": _BESSEL | {"bessel_trainable": True, "polynomial_cutoff_p": 9}
        },
        "Bessel functions, p 2": {"radial_chemical_embed": _BESSEL | {"polynomial_cutoff_p": 2}},
        "splines": {"radial_chemical_embed": _SPLINE},
        "embedding of another width": {"radial_chemical_embed_dim": 6},
        "cutoffs by pair": {"per_edge_type_cutoff": _CUTOFFS},
        "ZBL": {"pair_potential": _ZBL},
        "ZBL, cutoffs by pair": {"pair_potential": _ZBL, "per_edge_type_cutoff": _CUTOFFS},
        "ZBL, splines": {"pair_potential": _ZBL, "radial_chemical_embed": _SPLINE},
        "Lennard-Jones": {"pair_potential": _LJ},
    }
    common = ("as it is", "l_max 2", "l_max 3", "no parity", "1 layer", "ZBL", "readout linear")
    yield from _each("allegro", "architecture", architecture, common=common)
    yield from _each("allegro", "networks", networks, common=common)
    yield from _each("allegro", "radial functions and pairs", radial, common=common)
    yield from _each("allegro", "energies and neighbours", _energies(), common=common)


def _energies() -> dict[str, dict[str, Any]]:
    """Of nequip's builders, which allegro's share."""
    return {
        "average number of neighbours by type": {"avg_num_neighbors": _NEIGHBOURS},
        "scales by type, trained": {
            "per_type_energy_scales": {"Si": 2.0, "O": 0.7},
            "per_type_energy_scales_trainable": True,
            "per_type_energy_shifts_trainable": True,
        },
        "neither scales nor shifts": {
            "per_type_energy_scales": None,
            "per_type_energy_shifts": None,
        },
    }


def _nequip() -> Iterator[Variant]:
    architecture = {
        "as it is": {},
        **{f"l_max {n}": {"l_max": n} for n in (0, 2, 3)},
        "no parity": {"parity": False},
        "1 layer": {"num_layers": 1},
        "widths by l": {"num_features": [6, 3, 2], "l_max": 2, "parity": False},
        "types embedded in 3": {"type_embed_num_features": 3},
        "preset S": {
            "_target_": "nequip.model.PresetNequIPGNNModel",
            "preset": "S",
            "num_features": [6, 4],
            "without": ("num_layers", "l_max", "parity", "radial_mlp_depth", "radial_mlp_width"),
        },
        "by irreps": {
            "_target_": _FULL_NEQUIP,
            "without": ("num_layers", "l_max", "parity", "num_features"),
            "irreps_edge_sh": "1x0e+1x1o",
            "feature_irreps_hidden": ["4x0e+2x1o", "4x0e"],
            "radial_mlp_depth": [1, 1],
            "radial_mlp_width": [8, 8],
            "type_embed_num_features": 4,
        },
        "residual layers": {"convnet_resnet": True, "parity": False},
        "no self-connection": {"convnet_sc": False},
        "learnable shift": {"learnable_shift": True},
        "gates silu and abs": {
            "convnet_nonlinearity_scalars": {"e": "silu", "o": "abs"},
            "convnet_nonlinearity_gates": {"e": "silu", "o": "abs"},
        },
        "scalars ssp, gates tanh": {
            "convnet_nonlinearity_scalars": {"e": "ssp", "o": "tanh"},
            "convnet_nonlinearity_gates": {"e": "tanh", "o": "tanh"},
        },
        "norm instead of gates": {"convnet_nonlinearity_type": "norm"},
        "a field of the structure embedded": {
            "_target_": _FULL_NEQUIP,
            "without": ("num_layers", "l_max", "parity", "num_features"),
            "irreps_edge_sh": "1x0e+1x1o",
            "feature_irreps_hidden": ["4x0e+4x1o", "4x0e"],
            "radial_mlp_depth": [1, 1],
            "radial_mlp_width": [8, 8],
            "type_embed_num_features": 4,
            "categorical_graph_field_embed": [
                {"field": "charge", "num_features": 2, "min": 0, "max": 2}
            ],
        },
    }
    radial = {
        "radial network without hidden layers": {"radial_mlp_depth": 0},
        "radial network of three hidden layers": {"radial_mlp_depth": 3},
        "Bessel functions trained, p 4": {
            "num_bessels": 5,
            "bessel_trainable": True,
            "polynomial_cutoff_p": 4,
        },
        "p 2": {"polynomial_cutoff_p": 2},
        "cutoffs by pair": {"per_edge_type_cutoff": _CUTOFFS},
        "ZBL": {"pair_potential": _ZBL},
        "ZBL, cutoffs by pair": {"pair_potential": _ZBL, "per_edge_type_cutoff": _CUTOFFS},
        "Lennard-Jones": {"pair_potential": _LJ},
    }
    readouts = {
        "readout of one hidden layer": {"readout_mlp_hidden_layers_depth": 1},
        "readout of two hidden layers, gelu": {
            "readout_mlp_hidden_layers_depth": 2,
            "readout_mlp_hidden_layers_width": 7,
            "readout_mlp_nonlinearity": "gelu",
        },
    }
    common = ("as it is", "l_max 2", "l_max 3", "no parity", "widths by l", "ZBL", "preset S")
    yield from _each("nequip", "architecture", architecture, common=common)
    yield from _each("nequip", "radial functions and pairs", radial, common=common)
    yield from _each("nequip", "readout", readouts, common=common)
    yield from _each("nequip", "energies and neighbours", _energies(), common=common)


def _mace() -> Iterator[Variant]:
    agnostic, residual, _, density, attention, nonlinear = INTERACTIONS
    interactions = {
        f"first {_short(name)}": {"interaction_cls_first": name} for name in INTERACTIONS
    } | {f"later {_short(name)}": {"interaction_cls": name} for name in INTERACTIONS}
    interactions["non-linear throughout, cutoff on the weights"] = {
        "interaction_cls_first": nonlinear,
        "interaction_cls": nonlinear,
        "apply_cutoff": False,
        "use_agnostic_product": True,
        "readout_cls": "NonLinearBiasReadoutBlock",
    }
    interactions["non-linear throughout, cutoff on the radial functions"] = {
        "interaction_cls_first": nonlinear,
        "interaction_cls": nonlinear,
    }
    interactions["attention, cutoff on the weights"] = {
        "interaction_cls": attention,
        "apply_cutoff": False,
    }
    interactions["density throughout, cutoff on the weights"] = {
        "interaction_cls_first": INTERACTIONS[2],
        "interaction_cls": density,
        "apply_cutoff": False,
    }
    architecture = {
        "as it is": {},
        "class MACE": {"kind": "MACE"},
        **{f"correlation {n}": {"correlation": n} for n in (1, 3, 4)},
        "correlation 4, 1 layer": {"correlation": 4, "num_interactions": 1},
        "correlation by layer": {"correlation": [3, 2]},
        "max_ell 0, scalars": {"max_ell": 0, "hidden_irreps": "4x0e"},
        **{f"max_ell {n}": {"max_ell": n} for n in (1, 3, 4)},
        "hidden 0e": {"hidden_irreps": "4x0e"},
        "hidden 0e 1o 2e": {"hidden_irreps": "4x0e + 4x1o + 4x2e"},
        "hidden 0e 1o 2e 3o": {"hidden_irreps": "2x0e + 2x1o + 2x2e + 2x3o", "max_ell": 3},
        "hidden with odd scalars": {"hidden_irreps": "4x0e + 4x0o + 4x1o + 4x1e"},
        "no parity (use_so3)": {"use_so3": True, "hidden_irreps": "4x0e + 4x1e"},
        "1 layer": {"num_interactions": 1},
        "1 layer, residual": {"num_interactions": 1, "interaction_cls_first": residual},
        "3 layers": {"num_interactions": 3},
        "products alike for all elements": {"use_agnostic_product": True},
        "whole Clebsch-Gordan basis": {"use_reduced_cg": False},
        "edge irreps": {"edge_irreps": "2x0e + 2x1o"},
        "edge irreps, first layer, too": {
            "edge_irreps": "2x0e + 2x1o",
            "use_edge_irreps_first": True,
        },
        "last layer keeps its irreps": {"keep_last_layer_irreps": True},
    }
    readouts = {
        **{name: {"readout_cls": name} for name in READOUTS},
        "gate tanh": {"gate": "tanh"},
        "gate abs": {"gate": "abs"},
        "gate None": {"gate": "None"},
        "last readout only": {"use_last_readout_only": True},
        "several heads": _TWO_HEADS | {"head": "second"},
        "several heads, NonLinearBiasReadoutBlock": _TWO_HEADS
        | {"head": "second", "readout_cls": "NonLinearBiasReadoutBlock"},
    }
    radial = {
        "Gaussian basis": {"radial_type": "gaussian"},
        "Chebyshev basis": {"radial_type": "chebyshev"},
        "Agnesi": {"distance_transform": "Agnesi"},
        "Soft": {"distance_transform": "Soft"},
        "Soft, Gaussian basis": {"distance_transform": "Soft", "radial_type": "gaussian"},
        "Agnesi, density": {
            "distance_transform": "Agnesi",
            "interaction_cls_first": INTERACTIONS[2],
            "interaction_cls": density,
        },
        "Agnesi, 1 layer": {"distance_transform": "Agnesi", "num_interactions": 1},
        "ZBL": {"pair_repulsion": True},
        "ZBL, 1 layer": {"pair_repulsion": True, "num_interactions": 1},
        "ZBL, Agnesi": {"pair_repulsion": True, "distance_transform": "Agnesi"},
        "cutoff on the weights": {"apply_cutoff": False},
        "cutoff on the weights, 1 layer": {"apply_cutoff": False, "num_interactions": 1},
        "cutoff p 2": {"num_polynomial_cutoff": 2},
        "radial network of three hidden layers": {"radial_MLP": [8, 8, 8]},
    }
    common = (
        *("as it is", "class MACE", "correlation 3", "max_ell 3", "hidden 0e", "1 layer"),
        *(f"first {_short(n)}" for n in (agnostic, residual, density)),
        *(f"later {_short(n)}" for n in (residual, density)),
        *("hidden 0e 1o 2e", "ZBL", "Agnesi", "ZBL, Agnesi", "Agnesi, density", "several heads"),
    )
    yield from _each("mace", "interactions", interactions, common=common)
    yield from _each("mace", "architecture", architecture, common=common)
    yield from _each("mace", "readout", readouts, common=common)
    yield from _each("mace", "radial functions and pairs", radial, common=common)


def _short(name: str) -> str:
    """``RealAgnosticDensityInteractionBlock`` as ``AgnosticDensity``."""
    return name.removeprefix("Real").removesuffix("InteractionBlock")
