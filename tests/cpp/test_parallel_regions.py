"""Every parallel region is one that an exception can leave."""

from importlib.resources import files


def test_regions_are_opened_in_one_place():
    folders = (files("kan_md_pair_styles") / "core", files("kan_md_pair_styles") / "lammps")
    sources = [
        path
        for folder in (*folders, files("kan_md") / "ops")
        for path in folder.iterdir()
        if path.name.endswith((".cpp", ".h"))
    ]
    assert len(sources) > 50
    found = {path.name for path in sources if "omp parallel" in path.read_text()}
    assert found == {"parallel.h"}
