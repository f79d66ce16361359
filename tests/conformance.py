"""What the conformance tests run over: models, ways to deploy them, and what may differ.

A new backbone, or a kind of model that a pass treats in a way of its own, joins by one line in
``MODELS``; a new choice of passes, operators, backend or dtype joins by one line in ``CHOICES`` and
by its name in the models that it is for. Every line is then held to every property of
``tests/unit/deploy/test_conformance.py`` in Python and of
``tests/lammps/test_conformance_in_lammps.py`` on one rank and on several.
"""

from typing import NamedTuple

ELEMENTS = ("Cu", "Au")
R_MAX = 4.0


class Model(NamedTuple):
    """A model to deploy.

    Attributes:
        style: its backbone, which names its pair style, too.
        keywords: of the fixture ``tiny_checkpoint``; ``type_names`` begin with ``ELEMENTS``.
        taken_by: the pass by which a fused file has the model's operators.
        choices: names in ``CHOICES``.
    """

    style: str
    keywords: dict
    taken_by: str
    choices: tuple[str, ...]

    @property
    def arguments(self) -> dict:
        """Keywords, elements included: more than a structure has, where the model says so."""
        return {"type_names": ELEMENTS} | self.keywords


class Choice(NamedTuple):
    """A way to deploy.

    Attributes:
        deploy: arguments of ``kan_md.deploy``.
        error: that is allowed, of forces relative to the largest, of energies in eV per atom.
    """

    deploy: dict
    error: float

    @property
    def fused(self) -> bool:
        return self.deploy.get("operators") == "fused"

    @property
    def single(self) -> bool:
        return self.deploy.get("dtype") == "float32"

    @property
    def backend(self) -> str:
        return self.deploy.get("backend", "torchscript")


TABLES = {"bound": 1e-9}
FUSED = {"operators": "fused"}
AOTINDUCTOR = {"backend": "aotinductor"}
CHOICES = {
    "no passes": Choice({"passes": "none"}, 1e-9),
    "portable": Choice({"operators": "portable"} | TABLES, 1e-7),
    "fused": Choice(FUSED | TABLES, 1e-7),
    "fused, float32": Choice(FUSED | {"dtype": "float32"}, 1e-5),
    "AOTInductor": Choice(AOTINDUCTOR | {"operators": "portable", "bound": 0.0}, 1e-9),
    "AOTInductor, fused": Choice(AOTINDUCTOR | FUSED | TABLES, 1e-7),
    "AOTInductor, fused, float32": Choice(AOTINDUCTOR | FUSED | {"dtype": "float32"}, 1e-5),
}

SCRIPTED = ("no passes", "portable", "fused", "fused, float32")
"""What every backbone has. Exports take a quarter of a minute each: four models have one."""

ZBL = {
    "pair_potential": {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "units": "metal",
        "chemical_species": list(ELEMENTS),
    }
}
DENSITIES = {
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
}
EVERYWHERE = {"readout": {"sites": ["all"], "num_basis": 5}, "num_layers": 2}
PROJECTED = {"readout": {"sites": ["output", "two_body"], "projection": 3, "hidden": [4]}}
SMALL = {"num_scalar_features": 4, "readout": {"kind": "mlp"}}
ONE_LAYER = {"num_interactions": 1}
ONE_LAYER_PER_TYPE = ONE_LAYER | {"readout": {"per_type": True, "num_basis": 5}}
MANY_ELEMENTS = {"type_names": (*ELEMENTS, "Ag", "Ni", "Pd")}
ONE_LAYER_RADIAL = ONE_LAYER | {"readout": {"sites": "all", "basis": "bspline"}}
RADIAL = {"readout": {"sites": "all", "num_basis": 5, "grid_range": [-6.0, 6.0]}}
MANY_WITHOUT_KAN = MANY_ELEMENTS | {"readout": {"kind": "mlp"}}
MANY_CUTOFFS = MANY_ELEMENTS | {"per_edge_type_cutoff": {"Ag": 3.5, "Au": {"Ni": 3.6}}}
ONE_LAYER_DENSITY = ONE_LAYER | DENSITIES
ONE_LAYER_LINE = ONE_LAYER | {"readout": {"kind": "linear", "per_type": True}}
ONE_LAYER_ROOT = ONE_LAYER | {"readout": {"kind": "finnis_sinclair", "per_type": True}}
ONE_LAYER_MLP = ONE_LAYER | {"readout": {"kind": "mlp"}}

# fmt: off
MODELS = {
    "allegro": Model("allegro", {}, "fused_allegro", SCRIPTED),
    "allegro, KANs everywhere":
        Model("allegro", EVERYWHERE, "fused_allegro", ("fused", "fused, float32")),
    "allegro, projected KANs, repulsion":
        Model("allegro", PROJECTED | ZBL, "fused_allegro", ("portable", "fused")),
    "allegro, small":
        Model("allegro", SMALL, "fused_allegro", ("AOTInductor", "AOTInductor, fused")),
    "allegro, many elements":
        Model("allegro", MANY_WITHOUT_KAN, "fused_allegro", ("fused", "fused, float32")),
    "nequip, many elements":
        Model("nequip", MANY_CUTOFFS, "fused_nequip", ("fused",)),
    "nequip": Model("nequip", {}, "fused_nequip", (*SCRIPTED, "AOTInductor, fused")),
    "nequip, repulsion": Model("nequip", ZBL, "fused_nequip", ("fused",)),
    "mace": Model("mace", {}, "fused_mace", (*SCRIPTED, "AOTInductor, fused, float32")),
    "mace, densities": Model("mace", DENSITIES, "fused_mace", ("fused",)),
    "mace, radial KANs": Model("mace", RADIAL, "fused_mace", ("fused",)),
    "mace of one layer, radial KANs":
        Model("mace", ONE_LAYER_RADIAL, "fused_local_mace", ("fused, float32",)),
    "mace of one layer": Model("mace", ONE_LAYER, "fused_local_mace", SCRIPTED),
    "mace of one layer, mlp":
        Model("mace", ONE_LAYER_MLP, "fused_local_mace", ("fused",)),
    "mace of one layer, densities":
        Model("mace", ONE_LAYER_DENSITY, "fused_local_mace", ("fused", "fused, float32")),
    "mace of one layer, many elements":
        Model("mace", ONE_LAYER | MANY_ELEMENTS, "fused_local_mace", ("fused", "fused, float32")),
    "mace of one layer, KANs per element":
        Model("mace", ONE_LAYER_PER_TYPE, "fused_local_mace", ("portable", "fused")),
    "mace of one layer, line per element":
        Model("mace", ONE_LAYER_LINE, "fused_local_mace", ("fused",)),
    "mace of one layer, square roots per element":
        Model("mace", ONE_LAYER_ROOT, "fused_local_mace", ("fused, float32",)),
}
# fmt: on


class Line(NamedTuple):
    """A deployed file that is held to all properties."""

    model: Model
    choice: Choice


LINES = {
    f"{name}: {choice}": Line(model, CHOICES[choice])
    for name, model in MODELS.items()
    for choice in model.choices
}
