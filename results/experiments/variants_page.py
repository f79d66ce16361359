"""variants.md from the rows that are stored."""

from __future__ import annotations

from kan_md.benchmark.report import markdown_table
from results.experiments.variants_list import variants
from results.experiments.variants_models import SMALL, Variant

EXACT = 1e-6
"""Of the root mean square force: LAMMPS in float64 is upstream's model."""
SINGLE = 1e-3
"""The same in float32, whose weights and sums are rounded."""
GRADIENT = 1e-6
"""Relative to the largest derivative of an array of weights."""
_NOTHING = 1e-7
"""eV; below it an energy is zero."""

_HOW = """\
Each line is a model of two elements with fresh weights, built by upstream's own builder and written
as upstream's training writes it; it differs from the small model of its backbone ("as it is") in
what its name says. It is taken to LAMMPS by `kan-md convert` and `kan-md deploy`, and every step is
held against upstream's own model: on a triclinic crystal with two atoms 1.3 Å apart, and on a
cluster beside which one atom stands alone."""
_COLUMNS = f"""\
- **converts**: largest difference of energies (eV) and forces (eV/Å) of the converted model from
  upstream's, float64.
- **trains**: which form `kan-md train` evaluates, and the largest difference of a loss's derivative
  by a weight from that of upstream's modules (of the largest in its array).
- **passes**: what `kan-md deploy` made faster; "none" is upstream's graph, compiled as it is.
- **LAMMPS, float64**: largest difference of a force in LAMMPS from upstream's, of the root mean
  square force; "no" beyond {EXACT:.0e}. Energies per atom and virials per atom are held to the same
  number in eV.
- **float32**: the same of the file that people get by default, of common variants (bold); "no"
  beyond {SINGLE:.0e}.
- **faster**: CPU time of upstream's modules over that of this file on 64 atoms, one thread, the
  smallest of five calls each in turn. These models are small, and the machine was busy: it tells
  fast from slow, no more.
- **by upstream's own design**: what a user should know of the option itself. A *jump* is the change
  of the energy as an atom without other neighbours comes within the cutoff of three others, over
  2e-6 Å: the potential is not continuous there, whatever runs it. *Alone* is the energy of an
  atom without neighbours above its reference energy."""


def page(stored: dict) -> str:
    """Text of variants.md."""
    rows = stored["rows"]
    known = [variant for variant in variants() if variant.title in rows]
    lines = ["# Options of upstream's architectures", "", _HOW, "", _COLUMNS, ""]
    lines += [_summary(known, rows), ""]
    for backbone in SMALL:
        own = [variant for variant in known if variant.backbone == backbone]
        if not own:
            continue
        lines += [f"## {backbone}", ""]
        for group in dict.fromkeys(variant.group for variant in own):
            some = [variant for variant in own if variant.group == group]
            heads = [group, "converts", "trains", "passes", "LAMMPS, float64", "float32"]
            heads += ["faster", "by upstream's own design"]
            body = [_cells(variant, rows[variant.title]) for variant in some]
            lines += [*markdown_table(heads, body), ""]
        lines += _stopped(own, rows)
    versions = ", ".join(f"{name} {version}" for name, version in stored["versions"].items())
    lines += [f"Machine: {stored['machine']}; one thread. {versions}.", ""]
    lines += ["Made by `python -m results.experiments.variants`.", ""]
    return "\n".join(lines)


def is_good(row: dict) -> bool:
    """Whether a variant that upstream builds goes all the way with upstream's numbers."""
    return (
        not row["errors"]
        and row["gradient"] is not None
        and row["gradient"] <= GRADIENT
        and _is_close(row["in_lammps"], row["size"], EXACT)
    )


def _summary(known: list[Variant], rows: dict) -> str:
    built = [v for v in known if "upstream" not in rows[v.title]["errors"]]
    good = [v for v in built if is_good(rows[v.title])]
    fast = [v for v in good if rows[v.title]["passes"]]
    slow = [v.title for v in good if v.is_common and not rows[v.title]["passes"]]
    text = (
        f"{len(known)} variants: upstream builds and evaluates {len(built)}, of which {len(good)} "
        f"convert, train, deploy and have upstream's numbers in LAMMPS; {len(fast)} of these have "
        "passes. "
    )
    text += f"Common ones without passes: {', '.join(slow) or 'none'}."
    return text


def _cells(variant: Variant, row: dict) -> list[str]:
    name = f"**{variant.name}**" if variant.is_common else variant.name
    if "upstream" in row["errors"]:
        return [name, *["–"] * 6, "upstream cannot evaluate it"]
    return [
        name,
        _converted(row),
        _trained(row),
        ", ".join(row["passes"]) or ("none" if row["backend"] else "–"),
        _compared(row, "in_lammps", EXACT),
        _compared(row, "in_single", SINGLE),
        "–" if row["faster"] is None else f"{row['faster']:.1f}",
        _design(row),
    ]


def _converted(row: dict) -> str:
    if row["converted"] is None:
        return "no" if "convert" in row["errors"] else "–"
    energy, force = row["converted"]
    return f"{energy:.0e}, {force:.0e}"


def _trained(row: dict) -> str:
    if row["gradient"] is None:
        return "no" if "train" in row["errors"] else "–"
    wrong = "" if row["gradient"] <= GRADIENT else "**no**, "
    return f"{wrong}{row['form'].split(':')[0]}, {row['gradient']:.0e}"


def _compared(row: dict, key: str, allowed: float) -> str:
    if row[key] is None:
        return "no" if row["errors"].keys() - {"limits", "train"} else "–"
    relative = row[key][1] / row["size"]
    return f"{'' if _is_close(row[key], row['size'], allowed) else '**no**, '}{relative:.0e}"


def _is_close(found: list[float] | None, size: float, allowed: float) -> bool:
    if found is None:
        return False
    energy, force, virial = found
    return force <= allowed * size and max(energy, virial) <= allowed * max(1.0, size)


def _design(row: dict) -> str:
    said = []
    if row["jump"] is not None and abs(row["jump"]) > _NOTHING:
        said.append(f"jump of {1e3 * abs(row['jump']):.2g} meV")
    if row["isolated"] is not None and abs(row["isolated"]) > _NOTHING:
        said.append(f"alone {1e3 * row['isolated']:.2g} meV")
    return ", ".join(said)


def _stopped(own: list[Variant], rows: dict) -> list[str]:
    """What was said where a variant did not go all the way."""
    found = [
        f"- {variant.name}, {step}: {text}"
        for variant in own
        for step, text in rows[variant.title]["errors"].items()
    ]
    slow = [
        f"- {variant.name}, training by upstream's modules: {row['form'].partition(': ')[2]}"
        for variant in own
        for row in [rows[variant.title]]
        if row["form"].startswith("upstream")
    ]
    skipped = [
        f"- {variant.name}, {name} left out: {reason}"
        for variant in own
        for name, reason in rows[variant.title]["skipped"].items()
    ]
    lines = [*found, *slow, *skipped]
    return ["What was said:", "", *lines, ""] if lines else []
