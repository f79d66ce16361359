"""Tables, figures and files made from a report."""

from dataclasses import replace
from io import StringIO

import pytest
from matplotlib.colors import to_hex

from kan_md.benchmark.compare import Report
from kan_md.benchmark.figure import draw_figure, save_report_figure
from kan_md.benchmark.report import markdown, screen_table
from kan_md.benchmark.store import check_folder, save_report
from kan_md.errors import KanMdError
from kan_md.figures import COLOURS, GREY


def test_a_report_survives_its_json(report, tmp_path):
    assert Report.from_json(report.to_json()) == report
    save_report(report, tmp_path / "new", name="report")
    assert Report.from_json((tmp_path / "new" / "report.json").read_text()) == report
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "report.json",
        "report.md",
        "report.png",
    ]


def test_the_page_states_units_machine_versions_command_and_seed(report):
    text = markdown(report)
    for part in ("ms/step", "µs/step", "ns/day", "MiB", "some CPU", "torch 2", "seed 1"):
        assert part in text
    assert "`kan-md benchmark`, 2026-01-01 00:00 UTC" in text
    assert "| KAN | kan gaussian | 10.0 ± 1.0" in text
    assert "0.500 ± 0.010" in text


def test_bars_start_at_zero_with_units_errors_and_colours(report):
    shares = ({"Pair": 0.9, "Comm": 0.1}, {"Pair": 1.0})
    rows = [
        replace(row, readout=kind, peak_rss_mib=size, phases=phases)
        for row, kind, size, phases in zip(
            report.rows, ("kan gaussian", "mlp"), (300.0, 200.0), shares, strict=True
        )
    ]
    time, memory, phases = draw_figure(replace(report, rows=rows)).axes
    for axes in (time, memory, phases):
        assert axes.get_xlim()[0] == 0.0
    assert time.get_xlabel() == "time (ms/step)"
    assert memory.get_xlabel() == "peak memory of a rank (MiB)"
    assert [bar.get_width() for bar in time.patches] == [10.0, 20.0]
    errors = next(c for c in time.containers if hasattr(c, "has_xerr")).lines[2][0].get_segments()
    assert [segment[1][0] - segment[0][0] for segment in errors] == pytest.approx([2.0, 4.0])
    assert len({to_hex(bar.get_facecolor()) for bar in phases.patches}) == 2
    assert [to_hex(bar.get_facecolor()) for bar in time.patches] == [COLOURS[0], GREY]


def test_panels_that_say_nothing_are_a_line_of_text(report):
    """Two models of equal memory that spend all their time in the pair style differ in time."""
    rows = [
        replace(row, phases={"Pair": 0.992}, peak_rss_mib=size)
        for row, size in zip(report.rows, (172.0, 170.0), strict=True)
    ]
    figure = draw_figure(replace(report, rows=rows))
    assert len(figure.axes) == 1
    assert figure.get_supxlabel() == (
        "peak memory of a rank 170 to 172 MiB; ≥ 99 % of the time in the pair style"
    )


@pytest.mark.parametrize(
    ("ending", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")]
)
def test_figures_are_of_the_format_that_their_ending_says(report, tmp_path, ending, start):
    path = tmp_path / f"figure.{ending}"
    save_report_figure(report, path)
    assert path.read_bytes().startswith(start)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_figures_of_unknown_endings_are_refused(report, tmp_path):
    with pytest.raises(KanMdError, match=r"got figure.txt; allowed: .png, .pdf, .svg"):
        save_report_figure(report, tmp_path / "figure.txt")


def test_device_memory_is_shown_where_there_is_some(report):
    rows = [
        replace(r, device_mib={"cuda_peak_allocated": 50.0, "driver": 90.0}) for r in report.rows
    ]
    text = markdown(replace(report, rows=rows))
    assert "GPU allocated (MiB)" in text and "GPU driver (MiB)" in text
    assert "GPU" not in markdown(report)
    rows[1] = replace(rows[1], device_mib={"cuda_peak_allocated": 80.0, "driver": 120.0})
    memory = draw_figure(replace(report, rows=rows)).axes[1]
    assert [bar.get_width() for bar in memory.patches] == [50.0, 80.0]
    assert memory.get_xlabel() == "peak GPU memory (MiB)"


def test_the_table_fits_eighty_columns(report):
    from rich.console import Console

    console = Console(width=80, record=True, file=StringIO())
    console.print(screen_table(report))
    text = console.export_text()
    assert "0.500±0.010" in text and "…" not in text


def test_an_unwritable_folder_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KanMdError, match="must be writable"):
        check_folder(tmp_path / "file" / "folder")
