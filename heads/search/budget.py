"""How long a search goes on: `Budget`, and how it is written."""

import re
from dataclasses import dataclass
from typing import Final

from featurestore.errors import ConfigError

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_TRIALS: Final = re.compile(r"(\d+)\s*trials?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a search may take, all its parts together: one that is run again after a kill has what is left.

    Attributes
    ----------
    seconds
        Time in which it runs; None for no limit.
    trials
        How many are finished; None for no limit.
    """

    seconds: float | None = None
    trials: int | None = None

    def is_spent(self, *, seconds: float, trials: int) -> bool:
        """Whether no further trial may begin."""
        return self.is_out_of_time(seconds) or (self.trials is not None and trials >= self.trials)

    def is_out_of_time(self, seconds: float) -> bool:
        """Whether trials under way are to end."""
        return self.seconds is not None and seconds >= self.seconds

    def describe(self) -> str:
        """As it was given."""
        if self.trials is not None:
            return f"{self.trials} trials"
        seconds = self.seconds or 0
        unit = next((unit for unit in ("h", "m") if seconds >= _SECONDS[unit] and not seconds % _SECONDS[unit]), "s")
        return f"{seconds / _SECONDS[unit]:g}{unit}"


def parse_budget(text: str) -> Budget:
    """A budget such as ``"30m"``, ``"90s"``, ``"2h"`` or ``"50 trials"``.

    Raises
    ------
    ConfigError
        If it is none of these, or nothing.
    """
    found = text.strip().lower()
    time, trials = _TIME.fullmatch(found), _TRIALS.fullmatch(found)
    seconds = float(time[1]) * _SECONDS[time[2]] if time else 0.0
    n_trials = int(trials[1]) if trials else 0
    if not seconds and not n_trials:
        raise ConfigError(f"Expected a budget such as 30m, 90s, 2h or '50 trials', got {text!r}. Give one above 0.")
    return Budget(seconds=seconds) if time else Budget(trials=n_trials)
