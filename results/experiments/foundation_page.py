"""foundation.md from the rows that are stored."""

from __future__ import annotations

from kan_md.benchmark.report import markdown_table
from results.experiments.foundation_shapes import Shape, shapes
from results.experiments.foundation_structure import REPEATS

_HOW = """\
Models of the shapes that foundation models have, made with fresh weights by upstream's own builders
(trained ones are not part of this project) and taken to LAMMPS by `kan-md convert` and
`kan-md deploy` without options: all elements stay in the file, which is in float32. Every step is a
process of its own, one thread; times are processor time, imports included, and memory is the
largest resident set."""
_COLUMNS = """\
- **parameters**: of the model made here, and as published.
- **file over weights**: the deployed file over the parameters in its own precision.
- **pair_coeff**: time of that command for two elements, in which the file makes their tables.
- **force error**: LAMMPS in float32 against upstream's own calculator in float64, eight atoms of
  two elements, relative to the largest force."""
_SPEED = """\
Steps of molecular dynamics in LAMMPS beside upstream's own compiled model of the same weights in
float32: for MACE a call of mace-torch's scripted model for LAMMPS (neighbour list and integrator
not counted), for NequIP and Allegro nequip-compile's AOTInductor file in the same pair style.
Processor time, on a busy machine; 64 atoms in turn, 512 one after the other."""


def page(stored: dict) -> str:
    """Text of foundation.md."""
    rows = stored["rows"]
    known = [shape for shape in shapes() if rows.get(shape.name)]
    lines = ["# Models of foundation size", "", _HOW, "", _COLUMNS, ""]
    heads = ["shape", "elements", "parameters (published)", "convert (s)", "deploy (s)"]
    heads += ["deploy (GB)", "file (MB)", "file over weights", "pair_coeff (s)", "force error"]
    heads += ["passes"]
    lines += markdown_table(heads, [_cells(shape, rows[shape.name]) for shape in known])
    lines += ["", "## Speed", "", _SPEED, ""]
    heads = ["shape", "atoms", "edges per atom", "upstream (ms)", "kan-md (ms)", "times faster"]
    heads += ["upstream (MiB)", "kan-md (MiB)"]
    lines += markdown_table(heads, [cells for s in known for cells in _speed(s, rows[s.name])])
    said = [
        f"- {shape.name}, {step}: {text}"
        for shape in known
        for step, text in rows[shape.name]["errors"].items()
    ]
    compiled = [
        f"- {shape.name}: nequip-compile took {row['compile']['cpu_s']:.0f} s and "
        f"{row['compile']['peak_gb']:.1f} GB."
        for shape in known
        for row in [rows[shape.name]]
        if "compile" in row
    ]
    missing = [shape.name for shape in shapes() if not rows.get(shape.name)]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    if said or compiled:
        lines += ["", "What was said:", "", *compiled, *said]
    lines += ["", f"Machine: {stored['machine']}."]
    lines += ["", "Made by `python -m results.experiments.foundation`.", ""]
    return "\n".join(lines)


def file_over_weights(row: dict) -> float:
    """Size of the deployed file over that of the parameters in its precision."""
    size = {"float32": 4, "float64": 8}[row["deploy"]["dtype"]]
    return row["deploy"]["bytes"] / (size * row["made"]["parameters"])


def _cells(shape: Shape, row: dict) -> list[str]:
    made, deployed, found = (row.get(name) for name in ("made", "deploy", "lammps"))
    published = "–" if shape.published is None else f"{shape.published:,}"
    return [
        shape.name,
        str(len(shape.elements)),
        "–" if made is None else f"{made['parameters']:,} ({published})",
        f"{row['convert']['cpu_s']:.1f}" if "convert" in row else "–",
        "–" if deployed is None else f"{deployed['cpu_s']:.0f}",
        "–" if deployed is None else f"{deployed['peak_gb']:.1f}",
        "–" if deployed is None else f"{deployed['bytes'] / 1e6:.1f}",
        "–" if deployed is None else f"{file_over_weights(row):.2f}",
        "–" if found is None else f"{found['pair_coeff_cpu_s']:.1f}",
        "–" if found is None else f"{found['force_error']:.0e}",
        "–" if deployed is None else ", ".join(deployed["passes"]) or "none",
    ]


def _speed(shape: Shape, row: dict) -> list[list[str]]:
    lines = []
    for number in REPEATS:
        found = row.get(f"{number} atoms")
        if found is None:
            lines.append([shape.name, str(number), *["–"] * 6])
            continue
        ours, theirs = found["kan-md"], found.get("upstream")
        lines.append(
            [
                shape.name,
                str(number),
                f"{ours['edges_per_atom']:.0f}",
                "–" if theirs is None else f"{theirs['cpu_ms']:.0f}",
                f"{ours['cpu_ms']:.1f}",
                "–" if theirs is None else f"{theirs['cpu_ms'] / ours['cpu_ms']:.1f}",
                "–" if theirs is None else f"{theirs['peak_mib']:.0f}",
                f"{ours['peak_mib']:.0f}",
            ]
        )
    return lines
