"""The shape of the house: who imports whom, and what travels in the wheel."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Lower numbers never import higher ones. kan_md_deploy sits beside `train`: it sees the model, and
# only the parts that a user faces (calculator, evaluate, command line) see it.
LAYERS = {
    "kan_md.errors": 0,
    "kan_md.validation": 0,
    "kan_md.allocator": 0,
    "kan_md.interrupt": 0,
    "kan_md.children": 0,
    "kan_md.end_with_parent": 0,
    "kan_md.waiting": 0,
    "kan_md.files": 0,
    "kan_md.contract": 0,
    "kan_md.upstream_file": 0,
    "kan_md.builds": 0,
    "kan_md.ops": 1,
    "kan_md.kan": 2,
    "kan_md.backbones": 3,
    "kan_md.forms": 4,
    "kan_md.model": 4,
    "kan_md.tasks": 5,
    "kan_md.config": 6,
    "kan_md.data": 6,
    "kan_md_deploy": 6,
    "kan_md.lammps": 7,
    "kan_md.solve": 7,
    "kan_md.train": 7,
    "kan_md.evaluate": 8,
    "kan_md.calculator": 8,
    "kan_md.runs": 8,
    "kan_md.front": 8,
    "kan_md.reproduce": 8,
    "kan_md.cli": 9,
    "results": 10,
}
TORCH_FREE = (
    "kan_md.benchmark",
    "kan_md.builds",
    "kan_md.lammps",
    "kan_md.contract",
    "kan_md.upstream_file",
    "kan_md.errors",
    "kan_md.files",
    "kan_md.allocator",
    "kan_md.children",
    "kan_md.waiting",
    "kan_md.versions",
)
EXPERIMENTS = "results.experiments"
"""The project's own measurements: they use everything, nothing uses them, no wheel holds them."""
HEAVY = ("torch", "nequip", "allegro", "mace", "e3nn", "lightning")


def sources() -> Iterator[tuple[str, Path]]:
    for folder, package in (
        ("kan_md", "kan_md"),
        ("deploy", "kan_md_deploy"),
        ("results/experiments", EXPERIMENTS),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *(p for p in parts if p != "__init__")]), path


def imported(path: Path, *, lazily: bool) -> Iterator[str]:
    """Modules imported by a file; with lazily=False only by its top level."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazily else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> int | None:
    matches = [name for name in LAYERS if module == name or module.startswith(name + ".")]
    return LAYERS[max(matches, key=len)] if matches else None


def test_imports_point_downwards():
    wrong = [
        f"{module} imports {target}"
        for module, path in sources()
        for target in imported(path, lazily=True)
        if points_up(module, target)
    ]
    assert not wrong, "\n".join(wrong)


def points_up(module: str, target: str) -> bool:
    own, other = layer(module), layer(target)
    if (
        own is None
        or other is None
        or "kan_md_deploy" == module.split(".")[0] == target.split(".")[0]
    ):
        return False
    # Of one height but apart: configuration and data may meet, the deploy step stands alone.
    beside_deploy = own == other and "kan_md_deploy" in (module.split(".")[0], target.split(".")[0])
    return other > own or beside_deploy


@pytest.mark.parametrize("package", TORCH_FREE)
def test_package_needs_no_torch(package):
    wrong = [
        f"{module} imports {target}"
        for module, path in sources()
        if module == package or module.startswith(package + ".")
        for target in imported(path, lazily=True)
        if target.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_command_line_starts_without_torch():
    wrong = [
        f"{module} imports {target}"
        for module, path in sources()
        if module.startswith("kan_md.cli")
        for target in imported(path, lazily=False)
        if target.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_every_package_is_in_the_wheel():
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    packages = {module for module, path in sources() if path.name == "__init__.py"}
    found = {module for module in packages if not module.startswith(EXPERIMENTS)}
    assert listed - {"kan_md_pair_styles", "kan_md_lammps_inputs"} == found


def test_only_tasks_know_whether_a_model_is_a_potential():
    """What differs between potentials and tensors stands in kan_md/tasks, nowhere else."""
    told = re.compile(r'kind [=!]= "(potential|tensor)"|isinstance\(\w+, (Potential|Tensor)Task\)')
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for module, path in sources()
        # The benchmark needs no torch, which a task does; a configuration names tensors or none.
        if not module.startswith(("kan_md.tasks", "kan_md.benchmark", "kan_md.config", EXPERIMENTS))
        for found in told.finditer(path.read_text())
    ]
    assert not wrong, "\n".join(wrong)


PROSE = (".py", ".h", ".cpp", ".md", ".txt", ".in", ".sh")
PATH = re.compile(
    r"\b(?:kan_md|kan_md_deploy|deploy|pair_styles|lammps_inputs|tests|results/experiments)"
    r"/[\w./-]*\.(?:py|h|cpp|sh|in|yaml|txt)\b"
)
CROSS_REFERENCE = re.compile(r":(?:mod|class|func|meth|data|attr):`~?((?:kan_md|results)[\w.]*)`")


def texts() -> Iterator[tuple[str, str]]:
    """Names and contents of the files that name others."""
    for folder in ("kan_md", "deploy", "pair_styles", "tests", "results/experiments"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in PROSE and path.is_file():
                yield str(path.relative_to(ROOT)), path.read_text()
    for name in ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml"):
        yield name, (ROOT / name).read_text()


def test_files_that_are_named_are_there():
    gone = [
        f"{name} names {found}"
        for name, text in texts()
        for found in PATH.findall(text)
        if not is_there(found.replace("kan_md_deploy/", "deploy/"))
    ]
    assert not gone, "\n".join(gone)


def is_there(path: str) -> bool:
    """Words in capitals, as in demo_BACKBONE.yaml, stand for anything."""
    return any(ROOT.glob(re.sub(r"[A-Z]{2,}", "*", path)))


def test_comments_of_the_sources_name_files_that_are_there():
    """Without their folders: `see ops.h`."""
    known = {path.name for top in ("kan_md", "deploy", "pair_styles", "tests")
             for path in (ROOT / top).rglob("*.*")}  # fmt: skip
    gone = [
        f"{name} names {found}"
        for name, text in texts()
        if name.endswith((".h", ".cpp"))
        for comment in re.findall(r"//(.*)", text)
        for found in re.findall(r"\b\w+\.(?:py|h|cpp)\b", comment)
        if found not in known | {"lammpsplugin.h"}  # of LAMMPS
    ]
    assert not gone, "\n".join(gone)


def test_cross_references_lead_somewhere():
    modules = {module: path for module, path in sources()}
    gone = []
    for name, text in texts():
        for found in CROSS_REFERENCE.findall(text):
            module = found
            while module not in modules and "." in module:
                module = module.rpartition(".")[0]
            member = found[len(module) + 1 :].partition(".")[0]
            if module not in modules or (member and member not in names_of(modules[module])):
                gone.append(f"{name} names {found}")
    assert not gone, "\n".join(gone)


def names_of(path: Path) -> set[str]:
    """What a module defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_no_two_files_of_tests_have_one_name():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))  # pytest collects none of the second one's tests
