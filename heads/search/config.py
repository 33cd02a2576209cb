"""What is searched for, and how it is judged: `SearchConfig`."""

from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from featurestore.errors import ConfigError
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig

FORMAT: Final = 4
"""Of the folder; raised when a change to the space or to fitting makes old trials incomparable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """What is searched for, and how it is judged.

    Attributes
    ----------
    task
        ``"au"``, ``"expr"``, ``"v"``, ``"a"``, or ``"p"``: all four together.
    training
        Of every trial, but for what is searched for.
    seeds
        Of the fits; a trial's score is the mean over them.
    n_folds
        Folds of train that select; None: val does.
    seed
        Of the proposals.

    Raises
    ------
    ConfigError
        If seeds repeat or are none, or there are fewer than two folds.
    """

    task: str
    training: FitConfig
    seeds: tuple[int, ...] = (1,)
    n_folds: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"Each seed makes one fit, got {self.seeds}. Name at least one, and each once.")
        if self.n_folds is not None and self.n_folds < 2:
            raise ConfigError(f"folds must be at least 2, got {self.n_folds}.")

    @property
    def is_honest(self) -> bool:
        """Whether val has no part in the search."""
        return self.n_folds is not None

    @property
    def selected_on(self) -> str:
        """What picks the best trial, for people."""
        return "val" if self.n_folds is None else f"train, out of {self.n_folds} folds"

    def describe(self, features: FeatureSet) -> dict[str, JsonValue]:
        """What makes trials comparable, for JSON."""
        training = {name: value for name, value in self.training.to_dict().items() if name not in ("device", "select")}
        return {
            "format": FORMAT,
            "task": self.task,
            "seeds": list(self.seeds),
            "n_folds": self.n_folds,
            "seed": self.seed,
            "training": training,
            "encoders": {name: features.fingerprints[name] for name in features.names},
            "frames": features.frames.fingerprint,
            "labels": features.labels_digest,
        }
