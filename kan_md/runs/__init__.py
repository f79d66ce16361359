"""Trainings that are done once: a configuration, a child process, one small file of results.

A study names its runs; :func:`kan_md.runs.queue.run_missing` trains those that have no record yet.
"""

from kan_md.runs.queue import run_missing
from kan_md.runs.record import Record
from kan_md.runs.store import Run, Store

__all__ = ["Record", "Run", "Store", "run_missing"]
