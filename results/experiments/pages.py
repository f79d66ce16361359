"""The pages of results/: Markdown and figures from a section's stored results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kan_md.benchmark.compare import Report
from kan_md.benchmark.figure import save_report_figure
from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.report import (
    markdown,
    markdown_table,
    save_atomically,
)
from kan_md.benchmark.statistics import Row
from results.experiments.cases import Section
from results.experiments.faster import details, gains, save_gains, summary

HOW = """\
How: models are deployed by `kan-md deploy` unless said otherwise and run in LAMMPS through its
Python module, one process per model; the processes take turns block by block (A B A B …) and only
one computes at a time. Time is the median over steps of LAMMPS' own loop clock; ± is the standard
deviation of the blocks' medians; a ratio is taken round by round and given as median ± standard
deviation over rounds. The weights are fresh (speed does not depend on training): seed 1, forces
scaled to next to nothing, atoms tethered to their sites at 300 K, so that all models see the same
edges."""


_FAR = 5.0
"""Times slower than the control, from where on a model is in the tables alone."""


def write_page(section: Section, stored: dict, folder: Path) -> None:
    """Write NAME.md and its figures.

    Args:
        section: what is published.
        stored: content of NAME.json.
        folder: of the pages.
    """
    lines = [f"# {section.title}", "", section.text, "", HOW, ""]
    if stored["quick"]:
        lines += ["**A trial run of the suite (`--quick`): these are no measurements.**", ""]
    reports = _reports(stored)
    lines += _targets(section, stored, reports)
    machine = next((report.machine for report in reports.values()), None)
    if section.faster:
        found = gains(section.cases, reports)
        lines += summary(found)
        if found:
            save_gains(found, folder / f"{section.name}.png")
            lines += [f"![times faster]({section.name}.png)", ""]
        lines += ["Machine: " + machine_line(machine), ""] if machine else []
    lines += _profiles(stored)
    for case in section.cases:
        result = stored["cases"].get(case.name)
        if result is None:
            continue
        if "error" in result:
            lines += [f"## {case.title}", "", f"Not measured: {result['error']}", ""]
            continue
        if section.faster:
            lines += details(reports[case.name], machine=machine)
        else:
            lines += _table_and_figure(
                reports[case.name], f"{section.name}-{case.name}.png", folder
            )
        lines += [f"Without {label}: {why}\n" for label, why in result["missing"].items()]
    save_atomically(
        folder / f"{section.name}.md", lambda part: part.write_text("\n".join(lines).strip() + "\n")
    )


def _table_and_figure(report: Report, figure: str, folder: Path) -> list[str]:
    """Table of all models; figure of those whose bars can be told apart, where there are two."""
    alike = [row for row in report.rows if (row.ratio or 1.0) < _FAR]
    if len(alike) < 2:
        return [markdown(report)]
    save_report_figure(replace(report, rows=alike), folder / figure)
    left_out = [row.label for row in report.rows if row not in alike]
    note = f"Too slow for the figure: {', '.join(left_out)}.\n"
    return [markdown(report, figure=figure), *([note] if left_out else [])]


def _reports(stored: dict) -> dict[str, Report]:
    return {
        name: Report.from_dict(result["report"])
        for name, result in stored["cases"].items()
        if "report" in result
    }


def _targets(section: Section, stored: dict, reports: dict[str, Report]) -> list[str]:
    """One line per wanted ratio: reached or not."""
    rows = []
    for case in section.cases:
        report = reports.get(case.name)
        wanted = stored["cases"].get(case.name, {}).get("targets", {})
        for row in report.rows if report else ():
            if row.label in wanted and row.ratio is not None:
                reached = "yes" if row.ratio <= wanted[row.label] else "no"
                control = next(r for r in report.rows if r.label == report.control)
                rows.append(
                    [
                        *(case.title, row.label),
                        *(f"{control.ms_per_step:.2f}", f"{row.ms_per_step:.2f}"),
                        f"{row.ratio:.3f} ± {row.ratio_error:.3f}",
                        *(f"{wanted[row.label]:.2f}", reached, _memory(row, control)),
                    ]
                )
    if not rows:
        return []
    heads = [
        *("case", "model", "control (ms)", "model (ms)", "ratio", "wanted ≤", "reached"),
        "peak memory (ratio)",
    ]
    return ["## Ratios", "", *markdown_table(heads, rows), ""]


def _memory(row: Row, control: Row) -> str:
    key = "cuda_peak_allocated"
    if control.device_mib.get(key):
        return f"{row.device_mib.get(key, 0.0) / control.device_mib[key]:.2f} (GPU)"
    return f"{row.peak_rss_mib / control.peak_rss_mib:.2f}"


def _profiles(stored: dict) -> list[str]:
    """Shares of the operators and the distance to the arithmetic limit."""
    profiles = {k: v for k, v in stored["profiles"].items() if "profile" in v}
    lines = [
        f"Profile of {label}: not measured: {result['error']}\n"
        for label, result in stored["profiles"].items()
        if "error" in result
    ]
    if not profiles:
        return lines
    rows = []
    for label, result in profiles.items():
        p = result["profile"]
        rows.append(
            [
                *(label, str(result["atoms"]), str(p["num_edges"]), str(p["threads"])),
                f"{p['ms_per_step']:.2f}",
                f"{p['product_gflop']:.3f}",
                f"{p['gemm_gflops']:.0f}",
                f"{p['limit_ms']:.2f}",
                f"{p['ms_per_step'] / p['limit_ms']:.1f}" if p["limit_ms"] > 0 else "",
            ]
        )
    heads = [
        *("file", "atoms", "edges", "threads", "call (ms)", "products (GFLOP)"),
        *("GEMM rate (GFLOP/s)", "limit (ms)", "call / limit"),
    ]
    lines += [
        "## Profile and arithmetic limit",
        "",
        "One call (energy and forces) of the deployed file from Python on a rattled crystal. The "
        "limit is the time that torch's matrix products in this very file would take at the rate "
        "of a 1024 x 1024 float32 product. Fused operators multiply inside, which is not counted: "
        "for them, compare the call with the limit of the portable file, whose products are those "
        "of the same rearranged arithmetic.",
        "",
        *markdown_table(heads, rows),
        "",
    ]
    for label, result in profiles.items():
        operators = ", ".join(
            f"{name.removeprefix('aten::')} {100 * share:.0f} %"
            for name, share, _ in result["profile"]["operators"][:8]
        )
        lines += [f"- {label}: {operators}"]
    return [*lines, ""]
