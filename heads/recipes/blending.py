"""The blend of a system's fits: weights of its models, and of the fits that are one model's (its seeds, its tasks)."""

from collections.abc import Mapping, Sequence

from featurestore.errors import ConfigError
from heads.calibration.blend import Blend, fit_blend
from heads.features.featureset import FeatureSet
from heads.fitting.fit import select_score
from heads.fitting.outoffold import OUT_OF_FOLD
from heads.runs.making import Made
from heads.scoring.predictions import Predictions
from heads.scoring.scores import part_scores
from heads.tasks import TASKS

from .plan import Piece
from .recipe import Recipe


def piece_blend(features: FeatureSet, recipe: Recipe, pieces: Sequence[Piece], made: Mapping[str, Made]) -> Blend:
    """Task -> fit -> weight, as the recipe says; the fits of one model share its weight evenly.

    Parameters
    ----------
    features
        What was fitted on.
    recipe
        Its models and its blend.
    pieces, made
        The fits, by name; with out-of-fold predictions where the blend looks at them.

    Raises
    ------
    ConfigError
        If no model has a score on train by which the best could be told.
    """
    weights: dict[str, dict[str, float]] = {}
    for task in recipe.tasks:
        fits = {
            member.name: [piece.name for piece in pieces if piece.model == member.name and task in piece.tasks]
            for member in recipe.answering(task)
        }
        shares = _member_weights(features, recipe, task, fits, made)
        total = sum(shares.values())
        weights[task] = {
            name: share / total / len(fits[member])
            for member, share in shares.items()
            if share > 0
            for name in fits[member]
        }
    return Blend(weights=weights, fitted_on=OUT_OF_FOLD if recipe.blend.looks_at_train else "")


def held_out_of(made: Mapping[str, Made]) -> dict[str, Predictions]:
    """The out-of-fold predictions of train, of every fit that has some."""
    return {name: each.out_of_fold.predictions for name, each in made.items() if each.out_of_fold is not None}


def _member_weights(
    features: FeatureSet, recipe: Recipe, task: str, fits: Mapping[str, Sequence[str]], made: Mapping[str, Made]
) -> Mapping[str, float]:
    plan = recipe.blend
    if len(fits) == 1 or not plan.looks_at_train:
        return plan.weights.get(task, dict.fromkeys(fits, 1.0))
    held_out = held_out_of(made)
    members = {
        member: Blend(weights={task: dict.fromkeys(names, 1 / len(names))}).apply(held_out)
        for member, names in fits.items()
    }
    if plan.how == "fitted":
        return fit_blend(members, features.targets, video_ids=features.video_ids).weights[task]
    scores = {member: _score(features, task, predictions) for member, predictions in members.items()}
    known = {member: score for member, score in scores.items() if score is not None}
    if not known:
        raise ConfigError(
            f"The best model of {task!r} is picked on train, but no row there has both a label and a prediction "
            f"(store: {features.source}). Check `abaw frames`."
        )
    return {max(known, key=lambda member: known[member]): 1.0}


def _score(features: FeatureSet, task: str, predictions: Predictions) -> float | None:
    kept = predictions.where(predictions.predicted())
    scores = part_scores(features.targets.take(kept.rows), kept)
    return select_score(scores, task) if TASKS[task].part in scores else None
