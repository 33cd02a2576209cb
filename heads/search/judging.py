"""What a search needs to be judged by, asked before a trial is spent; and the best one's scores on val."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from featurestore.errors import ConfigError
from heads.features.featureset import FeatureSet
from heads.fitting.fit import fit
from heads.fitting.folds import video_folds
from heads.runs.folder import write_json
from heads.scoring.scores import Scores
from heads.tasks import TASKS

from .config import SearchConfig
from .study import FinishedTrial

RESULT_FILE: Final = "result.json"
_LEAST_ROWS: Final = 2  # of a correlation


def check_judge(features: FeatureSet, config: SearchConfig) -> None:
    """Refuse a search that nothing could select.

    Raises
    ------
    ConfigError
        If the train split has fewer clips than folds, or, without folds, no row of val could be scored.
    """
    if config.n_folds is not None:
        video_folds(features.frames, config.n_folds)
    elif not any(_can_score(features, config.task, (encoder,)) for encoder in features.names):
        raise ConfigError(
            f"A search for {config.task!r} selects on val, but of its {len(features.frames.rows('val'))} rows none "
            f"has both an embedding and a label of it (store: {features.source}). Give a validation set to "
            "`abaw frames`, or select by folds of train with --honest."
        )


def judge(folder: Path, features: FeatureSet, config: SearchConfig, best: FinishedTrial) -> Scores | None:
    """The best trial's scores on val; honest if folds selected it, since nothing of its fit then looks at val.

    None if val cannot be scored: what folds select needs none.
    """
    head = best.candidate.head
    training = replace(best.candidate.training, seed=config.seeds[0])
    if config.is_honest:
        training = replace(training, epochs=best.outcome.epoch, select_on="last")
    has_val = _can_score(features, config.task, head.encoders)
    scores = fit(features, head, training).scores if has_val else None
    write_json(
        folder / RESULT_FILE,
        {
            "trial": best.number,
            "score": best.outcome.score,
            "selected_on": config.selected_on,
            "val": None if scores is None else scores.as_dict(),
            "val_is_honest": config.is_honest,
        },
    )
    return scores


def _can_score(features: FeatureSet, task: str, encoders: Sequence[str]) -> bool:
    """Whether val has rows with an embedding of each of some encoders and a label of the task, or of one of all."""
    rows = features.frames.rows("val")
    usable = features.usable(encoders)[rows]
    tasks = TASKS if task == "p" else (task,)
    return any((features.targets.labelled(name)[rows] & usable).sum() >= _LEAST_ROWS for name in tasks)
