"""The blend of a system's fits: weights of its models, and of the fits that are one model's (its seeds, its tasks).

Weights that are fitted to train out of fold have seen its labels, although no model has. A score of train, and a
calibration on it, therefore take for each fold the weights that the other folds lead to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from featurestore.errors import ConfigError, ShapeError
from heads.arrays import IntArray
from heads.calibration.blend import Blend, fit_blend
from heads.features.featureset import FeatureSet
from heads.fitting.epochs import select_score
from heads.fitting.outoffold import OUT_OF_FOLD
from heads.runs.making import Made
from heads.scoring.predictions import Predictions
from heads.scoring.scores import part_scores
from heads.tasks import TASKS

from .member import BlendPlan
from .plan import Piece
from .recipe import Recipe


def piece_blend(
    features: FeatureSet, recipe: Recipe, pieces: Sequence[Piece], held_out: Mapping[str, Predictions]
) -> Blend:
    """Task -> fit -> weight, as the recipe says; the fits of one model share its weight evenly.

    Parameters
    ----------
    features
        What was fitted on.
    recipe
        Its models and its blend.
    pieces
        The fits.
    held_out
        Their out-of-fold predictions of train, by name, as far as the blend looks at them.

    Raises
    ------
    ConfigError
        If no model has a score on train by which the best could be told, or weights cannot be judged by videos.
    ShapeError
        If no labelled row is predicted by all models of a task.
    """
    weights: dict[str, dict[str, float]] = {}
    found: dict[str, _Weighing] = {}
    for task in recipe.tasks:
        fits = {
            member.name: [piece.name for piece in pieces if piece.model == member.name and task in piece.tasks]
            for member in recipe.answering(task)
        }
        found[task] = _weigh(features, recipe, task, fits, held_out)
        shares = found[task].weights
        total = sum(shares.values())
        weights[task] = {
            name: share / total / len(fits[member])
            for member, share in shares.items()
            if share > 0
            for name in fits[member]
        }
    return Blend(
        weights=weights,
        fitted_on=OUT_OF_FOLD if recipe.blend.looks_at_train else "",
        ways={task: each.way for task, each in found.items() if each.way},
        scores={task: each.scores for task, each in found.items() if each.scores},
    )


def blend_held_out(
    features: FeatureSet,
    recipe: Recipe,
    pieces: Sequence[Piece],
    held_out: Mapping[str, Predictions],
    folds: IntArray,
) -> Predictions:
    """Out-of-fold predictions of train, blended; a fold's labels have no part in the weights that it is blended with.

    Parameters
    ----------
    features, recipe, pieces, held_out
        As of `piece_blend`.
    folds : shape (n_frames,), int64
        In 0 .. K - 1 for train, as `video_folds` gives them. Where the other folds have too few videos or labels to
        lead to any weights, a fold is blended with equal ones.
    """
    if not recipe.blend.looks_at_train:
        return piece_blend(features, recipe, pieces, held_out).apply(held_out)
    blended = []
    for number in range(int(folds.max()) + 1):
        here = {name: each.where(folds[each.rows] == number) for name, each in held_out.items()}
        others = {name: each.where(folds[each.rows] != number) for name, each in held_out.items()}
        try:
            blend = piece_blend(features, recipe, pieces, others)
        except (ConfigError, ShapeError):
            blend = piece_blend(features, replace(recipe, blend=BlendPlan()), pieces, others)
        blended.append(blend.apply(here))
    return Predictions.concatenated(blended)


def held_out_of(made: Mapping[str, Made]) -> dict[str, Predictions]:
    """The out-of-fold predictions of train, of every fit that has some."""
    return {name: each.out_of_fold.predictions for name, each in made.items() if each.out_of_fold is not None}


@dataclass(frozen=True, slots=True)
class _Weighing:
    """Weights of a task's models; how they came about, and what each way scored (see `Blend`)."""

    weights: Mapping[str, float]
    way: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


def _weigh(
    features: FeatureSet,
    recipe: Recipe,
    task: str,
    fits: Mapping[str, Sequence[str]],
    held_out: Mapping[str, Predictions],
) -> _Weighing:
    plan = recipe.blend
    if len(fits) == 1:
        return _Weighing(dict.fromkeys(fits, 1.0))
    if not plan.looks_at_train:
        given = plan.weights.get(task)
        return _Weighing(given, "given weights") if given else _Weighing(dict.fromkeys(fits, 1.0), "equal weights")
    members = {
        member: Blend(weights={task: dict.fromkeys(names, 1 / len(names))}).apply(held_out)
        for member, names in fits.items()
    }
    if plan.how == "fitted":
        # By clips: two people of one clip are no strangers, and weights would be judged by what they were fitted on.
        fitted = fit_blend(members, features.targets, video_ids=features.clip_ids)
        return _Weighing(fitted.weights[task], fitted.ways[task], fitted.scores[task])
    scores = {member: _score(features, task, predictions) for member, predictions in members.items()}
    known = {member: score for member, score in scores.items() if score is not None}
    if not known:
        raise ConfigError(
            f"The best model of {task!r} is picked on train, but no row there has both a label and a prediction "
            f"(store: {features.source}). Check `abaw frames`."
        )
    return _Weighing({max(known, key=lambda member: known[member]): 1.0}, "best member")


def _score(features: FeatureSet, task: str, predictions: Predictions) -> float | None:
    kept = predictions.where(predictions.predicted())
    scores = part_scores(features.targets.take(kept.rows), kept)
    return select_score(scores, task) if TASKS[task].part in scores else None
