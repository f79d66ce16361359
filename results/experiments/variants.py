"""Options of upstream's architectures, from upstream's file to LAMMPS.

``python -m results.experiments.variants --output results`` goes through every variant of
:mod:`results.experiments.variants_list` and writes variants.md and variants.json. What is there is
not done again (``--fresh`` does it), so that a run can be interrupted; ``--only TEXT`` takes the
variants whose titles hold it; ``--float32`` deploys common ones in float32, too, and takes times;
``--draw`` writes the page of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kan_md.benchmark.machine import describe_machine, machine_line, package_version
from kan_md.benchmark.report import save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.errors import KanMdError, user_error
from results.experiments.variants_checks import check
from results.experiments.variants_list import variants
from results.experiments.variants_models import Variant
from results.experiments.variants_page import page

NAME = "variants"
PACKAGES = ("torch", "e3nn", "nequip", "nequip-allegro", "mace-torch")


def run(
    chosen: Sequence[Variant], stored: dict, output: Path, console: Console, *, single: bool
) -> None:
    """Check variants one after the other; each is in the JSON as soon as it is done."""
    for variant in chosen:
        known = stored["rows"].get(variant.title)
        if known and not (single and variant.is_common and known["in_single"] is None):
            continue
        with tempfile.TemporaryDirectory(prefix="kan-md-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # upstream's, of its own options
            row = check(variant, Path(folder), single=single and variant.is_common)
        stored["rows"][variant.title] = row.plain()
        said = "; ".join(f"{step}: {text}" for step, text in row.errors.items()) or "ok"
        console.print(f"{variant.title}: {said}", markup=False, highlight=False, soft_wrap=True)
        _save(stored, output)


def _load(output: Path) -> dict:
    path = output / f"{NAME}.json"
    if path.exists():
        return json.loads(path.read_text())
    return {
        "machine": machine_line(describe_machine()),
        "versions": {name: package_version(name) for name in PACKAGES},
        "rows": {},
    }


def _save(stored: dict, output: Path) -> None:
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    save_atomically(output / f"{NAME}.json", lambda part: part.write_text(text + "\n"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--only", action="append", help="part of a title; repeatable")
    parser.add_argument("--fresh", action="store_true", help="do again what is chosen")
    parser.add_argument("--float32", action="store_true", help="common ones in float32, too")
    parser.add_argument("--draw", action="store_true", help="page of what is there, no more")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    try:
        check_folder(options.output)
        chosen = [v for v in variants() if _is_chosen(v, options.only)]
        if not chosen:
            raise user_error(
                "no variant of that name",
                found=", ".join(options.only),
                allowed=", ".join(v.title for v in variants()),
                remedy="change --only",
            )
        stored = _load(options.output)
        if options.fresh and not options.draw:
            for variant in chosen:
                stored["rows"].pop(variant.title, None)
        if not options.draw:
            run(chosen, stored, options.output, console, single=options.float32)
        text = page(stored)
        save_atomically(options.output / f"{NAME}.md", lambda part: part.write_text(text))
    except KanMdError as error:
        if os.environ.get("KAN_MD_DEBUG"):
            raise
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


def _is_chosen(variant: Variant, only: Sequence[str] | None) -> bool:
    return only is None or any(text in variant.title for text in only)


if __name__ == "__main__":
    sys.exit(main())
