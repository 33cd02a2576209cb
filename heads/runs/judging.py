"""What a fit is judged and post-processed by: `Judging`. It knows no torch, so that lists of systems are quick."""

from dataclasses import dataclass, field
from typing import Final

from featurestore.errors import ConfigError, unknown_name
from heads.calibration.config import PostConfig

N_FOLDS: Final = 5
"""For out-of-fold predictions, unless another number is asked for."""
CALIBRATE_ON: Final = ("train", "val")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What a fit is judged and post-processed by.

    Attributes
    ----------
    post
        What is calibrated; nothing by default.
    calibrate_on
        ``"train"``: out-of-fold predictions of it; ``"val"``: the score there is then in-sample.
    folds
        Out-of-fold fits; None for none, unless the calibration needs them (`N_FOLDS` then).
    select_on_folds
        Whether the folds pick the epoch, so that val has no part in the fit.
    fold_seed
        Of which videos go together.
    probe
        Whether a linear probe is fitted alongside, to compare with.
    """

    post: PostConfig = field(default_factory=PostConfig)
    calibrate_on: str = "train"
    folds: int | None = None
    select_on_folds: bool = False
    fold_seed: int = 0
    probe: bool = True

    def __post_init__(self) -> None:
        if self.calibrate_on not in CALIBRATE_ON:
            raise ConfigError(str(unknown_name("split to calibrate on", self.calibrate_on, CALIBRATE_ON)))

    @property
    def n_folds(self) -> int | None:
        """How many folds are fitted; None if no fold is."""
        needed = self.select_on_folds or (not self.post.is_empty and self.calibrate_on == "train")
        return N_FOLDS if self.folds is None and needed else self.folds
