"""Where runs and their records lie, and what of them is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import kan_md
from kan_md.config.load import parse_config, read_content
from kan_md.config.schema import TrainConfig
from kan_md.errors import user_error
from kan_md.runs.identity import canonical, digest, is_same
from kan_md.runs.record import Record, commit_of, curve_of, path_of, read_record, write_record
from kan_md.train.checkpoints import CONFIG_FILE
from kan_md.train.folder import LOG_FILE, MODEL_FILE, read_results
from kan_md.train.log import read_log


@dataclass(frozen=True)
class Run:
    """A training that is wanted.

    Args:
        name: for people and file names, e.g. ``Ag-KAN-1``.
        content: of the YAML file for ``kan-md train``.
        base: folder at which relative paths of it start.
    """

    name: str
    content: Mapping[str, Any]
    base: Path = field(default=Path())

    @cached_property
    def config(self) -> TrainConfig:
        """The checked configuration.

        Raises:
            KanMdError: it is none, as ``kan-md train`` would say it.
        """
        return parse_config(self.content, self.base)

    @cached_property
    def _canonical(self) -> tuple[dict[str, Any], dict[str, str]]:
        return canonical(self.config)

    @property
    def configuration(self) -> dict[str, Any]:
        """What decides the results, see :func:`kan_md.runs.identity.canonical`."""
        return self._canonical[0]

    @property
    def data(self) -> dict[str, str]:
        """Digests of the data files by name."""
        return self._canonical[1]

    @cached_property
    def id(self) -> str:
        """Digest of the configuration."""
        return digest(self.configuration)


def run_of(folder: Path, name: str) -> Run:
    """The run that ``kan-md train`` did in a folder, by the configuration that it left there."""
    return Run(name, read_content(folder / CONFIG_FILE), folder)


@dataclass(frozen=True)
class Store:
    """Records of runs in one folder, the runs themselves (checkpoints, models) in another.

    Args:
        records: folder of the JSON files, small enough to be kept with the sources of a study.
        work: folder of what they were made of; it may be removed when all runs are done.
    """

    records: Path
    work: Path

    def find(self, run: Run) -> Record | None:
        """The record of a run, also of one that failed; None where there is none."""
        exact = [read_record(path) for path in sorted(self.records.glob(f"*-{run.id}.json"))]
        if exact:  # one that succeeded, where another name's failed
            return next((record for record in exact if record.is_done), exact[0])
        for record in self.all():  # of a version that knew fewer keys
            if record.is_done and is_same(record.configuration, run.configuration, run.config):
                return record
        return None

    def all(self) -> list[Record]:
        """Every record, by file name."""
        return [read_record(path) for path in sorted(self.records.glob("*-*.json"))]

    def folder(self, run: Run) -> Path:
        """Folder of a run's files: what ``kan-md train --output`` writes."""
        return self.work / path_of(run.name, run.id, self.work).stem

    def model(self, run: Run) -> Path | None:
        """Its trained model; None where it is not trained, or was removed.

        It lies where its record says, which may be of another name or of an earlier version.
        """
        record = self.find(run)
        folders = [self.folder(run)]
        if record is not None:
            folders.insert(0, self.work / path_of(record.name, record.id, self.work).stem)
        found = (folder for folder in folders if read_results(folder) is not None)
        return next((folder / MODEL_FILE for folder in found), None)

    def keep(self, run: Run, *, threads: int | None = None) -> Record:
        """Write the record of a run that has just been finished in the store's own folder.

        Args:
            run: that has been trained.
            threads: that it was trained with.

        Raises:
            KanMdError: the run is not finished.
        """
        commit = commit_of(Path(kan_md.__file__).parent)
        return self._keep(run, self.folder(run), threads=threads, commit=commit)

    def keep_failure(self, run: Run, reason: str, *, threads: int | None = None) -> Record:
        """Write that a run failed, and why."""
        commit = commit_of(Path(kan_md.__file__).parent)
        return self._write(run, failure=reason, threads=threads, commit=commit)

    def adopt(
        self, folder: Path, name: str, *, threads: int | None = None, commit: str = ""
    ) -> Record:
        """Take up a run that ``kan-md train`` did by itself on this machine.

        Args:
            folder: its ``--output``.
            name: for people.
            threads: that it was trained with, where that is known.
            commit: of the sources, likewise.

        Raises:
            KanMdError: the run is not finished, or its data are not there any more.
        """
        return self._keep(run_of(folder, name), folder, threads=threads, commit=commit)

    def _keep(self, run: Run, folder: Path, **values: Any) -> Record:
        results = read_results(folder)
        if results is None:
            raise user_error(
                f"run in {folder}",
                found="no results",
                allowed="a finished run",
                remedy="go on with `kan-md train --resume`",
            )
        curve = curve_of(read_log(folder / LOG_FILE))
        return self._write(run, results=results, curve=curve, **values)

    def _write(self, run: Run, **values: Any) -> Record:
        record = Record(
            name=run.name, id=run.id, configuration=run.configuration, data=run.data, **values
        )
        write_record(record, self.records)
        return record
