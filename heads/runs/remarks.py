"""What a fit says of itself when it can hardly have learned what is there."""

from collections.abc import Mapping
from typing import Final

from heads.fitting.fit import FittedHead
from heads.light.fit import FittedLight
from heads.scoring.scores import Scores
from heads.tasks import PART_TITLES, PARTS, PartName

FEW_STEPS: Final = 100
"""A head that was fitted in fewer steps of its optimiser has hardly moved."""
BELOW: Final = 0.01
"""By how much a score must lie below the probe's to be remarked on."""
FALLING: Final = 0.98
"""The loss still falls if the last tenth of the epochs has less than this share of the tenth before."""


def remarks_on(fitted: FittedHead | FittedLight, scores: Scores, probe: Scores | None) -> tuple[str, ...]:
    """Sentences, none if all looks as it should.

    Parameters
    ----------
    fitted
        The fit.
    scores
        That are reported of it.
    probe
        Of a linear probe on the same rows; None if there is none.
    """
    found = list(_on_schedule(fitted)) if isinstance(fitted, FittedHead) else []
    found += _below(
        scores, {name: part.trivial for name in PARTS if (part := scores.parts[name])}, "the trivial one", 0
    )
    if probe is not None:
        points = {name: part.score for name in PARTS if (part := probe.parts[name])}
        found += _below(scores, points, "a linear probe's", BELOW)
    return tuple(found)


def _on_schedule(fitted: FittedHead) -> list[str]:
    if fitted.training.select_on == "last":
        return []  # what picked the number of epochs, folds or the user, is not the schedule's to judge
    schedule, n_epochs = fitted.schedule, len(fitted.curve)
    n_steps = n_epochs * schedule.steps_per_epoch
    done = f"{n_steps:,} steps ({n_epochs} epochs of {schedule.steps_per_epoch})"
    advice = "Leave out --epochs and --batch-frames, which then follow from the data, or raise the one, lower the other"
    if n_steps < FEW_STEPS:
        return [f"The fit took {done}, too few for a head to learn. {advice}."]
    was_cut = n_epochs == schedule.epochs and fitted.epoch > 0.9 * n_epochs
    tenth = max(1, n_epochs // 10)
    losses = [report.loss for report in fitted.curve]
    before, last = losses[-2 * tenth : -tenth], losses[-tenth:]
    falls = bool(before) and sum(last) / len(last) < FALLING * sum(before) / len(before)
    if was_cut and falls:
        return [f"The loss was still falling when the fit ended after {done}. {advice}."]
    return []


def _below(scores: Scores, others: Mapping[PartName, float], whose: str, by: float) -> list[str]:
    found = []
    for name in PARTS:
        part = scores.parts[name]
        if part is not None and name in others and part.score < others[name] - by:
            found.append(f"{PART_TITLES[name]} {part.score:.3f} is below {whose}, {others[name]:.3f}.")
    return found
