"""Where the time of a training goes, and which part is the slowest."""

from __future__ import annotations

import re
import time
from collections import defaultdict

from lightning.pytorch.profilers import Profiler

_ACTIONS = {
    "forward and forces": r"\.training_step$",
    "gradient": r"\.backward$",
    "optimiser": r"\.optimizer_step$",
    "batches": r"\.train_dataloader_next$",
    "validation": r"\.validation_step$|\.val_next$",
    "checkpoints": r"^save_checkpoint$",
}
"""Names of Lightning's actions by part. Its optimiser's step holds the first two."""

_OWN = "kan-md: "
_OTHERS = "other processes"
EXCHANGE = f"{_OWN}{_OTHERS}"
"""Action of exchanging gradients with other processes, waiting for them included; it lies in that
of the gradient."""
_SMALL = 0.01


class PartTimes(Profiler):
    """Adds up how long what Lightning names takes, and what is named with :meth:`part`.

    Args:
        start_up: s that the process has taken so far.

    On a GPU the work of a part that does not wait for it counts where it is waited for.
    """

    def __init__(self, *, start_up: float = 0.0) -> None:
        super().__init__()
        self.seconds = defaultdict(float, {f"{_OWN}start-up": start_up})
        self._started: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Begin an action."""
        self._started[action_name] = time.monotonic()

    def stop(self, action_name: str) -> None:
        """End an action."""
        self.seconds[action_name] += time.monotonic() - self._started.pop(action_name)

    def part(self, name: str):
        """Context whose time is a part of this name."""
        return self.profile(_OWN + name)

    def parts(self, total: float) -> dict[str, float]:
        """Seconds of each part, the slowest first; last ``rest``, what none of them is.

        Args:
            total: seconds of all.
        """
        found: dict[str, float] = {}
        for action, seconds in self.seconds.items():
            for name, pattern in _ACTIONS.items():
                if re.search(pattern, action):
                    found[name] = found.get(name, 0.0) + seconds
            if action.startswith(_OWN):
                found[action.removeprefix(_OWN)] = seconds
        if "optimiser" in found:
            inner = found.get("forward and forces", 0.0) + found.get("gradient", 0.0)
            found["optimiser"] = max(0.0, found["optimiser"] - inner)
        if _OTHERS in found:
            found["gradient"] = max(0.0, found.get("gradient", 0.0) - found[_OTHERS])
        rest = max(0.0, total - sum(found.values()))
        return {**dict(sorted(found.items(), key=lambda item: -item[1])), "rest": rest}


def parts_line(parts: dict[str, float]) -> str:
    """One line: which part is the slowest, and the shares of all that can be seen."""
    total = sum(parts.values()) or 1.0
    shares = [f"{name} {100 * s / total:.0f} %" for name, s in parts.items() if s > _SMALL * total]
    return f"time {total:.0f} s, slowest {', '.join(shares)}"
