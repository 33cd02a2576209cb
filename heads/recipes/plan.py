"""What the fit of a recipe comes to: models on encoders of the store, seeds, folds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from featurestore.errors import unknown_name
from heads.calibration.config import PostConfig
from heads.checking import at_least, raise_all
from heads.fitting.config import FitConfig
from heads.light.config import LAYERED, LightConfig
from heads.modules.config import HeadConfig
from heads.runs.judging import CALIBRATE_ON as SPLITS
from heads.runs.judging import N_FOLDS, Judging

from .member import Member
from .recipe import Recipe

CALIBRATE_ON: Final = (*SPLITS, "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemConfig:
    """What is fitted, and what the fit may look at.

    Attributes
    ----------
    recipe
        Its encoders are roles.
    roles
        Role -> encoder of the store, of those that another encoder plays.
    seed
        Of the first fit of each model; further ones count on from it.
    calibrate_on
        ``"train"`` (out of fold), ``"val"``, or ``"none"``: no post-processing.
    folds
        In place of the recipe's.
    epochs
        In place of those of every model that has some, commonly fewer: to try something out.
    select_on_folds
        Whether the folds pick the epochs, so that val has no part in the fit.

    Raises
    ------
    UnknownNameError
        If there is no such split to calibrate on, or no such role.
    ConfigError
        If folds or epochs are too few, or roles of one model are played by one encoder.
    """

    recipe: Recipe
    roles: Mapping[str, str]
    seed: int = 1
    calibrate_on: str = "train"
    folds: int | None = None
    epochs: int | None = None
    select_on_folds: bool = False

    def __post_init__(self) -> None:
        if self.calibrate_on not in CALIBRATE_ON:
            raise unknown_name("split to calibrate on", self.calibrate_on, CALIBRATE_ON)
        raise_all("system", at_least(2, folds=self.folds) + at_least(1, epochs=self.epochs))
        self.recipe.on(self.roles)  # refuses roles that cannot be played so

    @property
    def post(self) -> PostConfig:
        """What is calibrated."""
        return PostConfig() if self.calibrate_on == "none" else self.recipe.post

    @property
    def n_folds(self) -> int | None:
        """In how many folds each model is fitted once more; None if it is not."""
        asked = self.folds or self.recipe.folds
        calibrates = not self.post.is_empty and self.calibrate_on == "train"
        needed = self.recipe.blend.looks_at_train or calibrates or self.select_on_folds
        return N_FOLDS if asked is None and needed else asked

    @property
    def n_fits(self) -> int:
        """How many times something is fitted, folds included."""
        return len(self.fits()) * ((self.n_folds or 0) + 1)

    @property
    def options(self) -> tuple[str, ...]:
        """What is not as by default and has an effect, in short: ``("val", "epochs5")``; never roles and seed."""
        own = self.effective()
        told = [] if own.recipe.post.is_empty or own.calibrate_on == "train" else [own.calibrate_on]
        told += [] if own.folds is None else [f"folds{own.folds}"]
        told += [] if own.epochs is None else [f"epochs{own.epochs}"]
        told += ["selected-on-folds"] if own.select_on_folds else []
        return tuple(told)

    def effective(self) -> "SystemConfig":
        """The same fit without what changes nothing in it, so that two that differ in nothing else are one system.

        Where nothing is post-processed, ``calibrate_on`` is ``"none"``; epochs that no model has or that are those of
        all, folds that are those by default, and folds that would pick the epochs of models without a choice, go.
        """
        config = replace(self, calibrate_on="none") if self.recipe.post.is_empty else self
        plain = replace(config, epochs=None, folds=None)
        if all(_epochs(piece) in (None, config.epochs) for piece in plain.pieces()):
            config = replace(config, epochs=None)
        if not any(_has_choice(piece) for piece in plain.pieces()):
            config = replace(config, select_on_folds=False)
        by_default = replace(config, folds=None)
        return by_default if by_default.n_folds == config.n_folds else config

    @property
    def judging(self) -> Judging:
        """Of each of the fits by itself; what is calibrated is the blend."""
        return Judging(folds=self.n_folds, select_on_folds=self.select_on_folds)

    def fits(self) -> "tuple[tuple[Piece, ...], ...]":
        """The fits that make the system, each with the pieces that come of it."""
        recipe = self.recipe.on(self.roles)
        return tuple(tuple(_pieces(member, self, number)) for member in recipe.models for number in range(recipe.seeds))

    def pieces(self) -> "tuple[Piece, ...]":
        """All pieces of all fits."""
        return tuple(piece for fit in self.fits() for piece in fit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What answers some tasks: a fit of a model with one seed, at the epoch that its score or a task's own picks.

    Attributes
    ----------
    name
        Of its folder.
    model
        Of the recipe's which one.
    tasks
        What it answers.
    head
        On encoders of the store; of a light one with seed and epochs.
    training
        With seed and epochs; a light head takes nothing of it.
    """

    name: str
    model: str
    tasks: tuple[str, ...]
    head: HeadConfig | LightConfig
    training: FitConfig


def _epochs(piece: Piece) -> int | None:
    """Of its fit, 0 for as many as it takes; None if it has none: trees are counted otherwise, and some heads are
    solved at once.
    """
    if isinstance(piece.head, LightConfig):
        return piece.head.epochs if piece.head.estimator in LAYERED else None
    return piece.training.epochs or 0


def _has_choice(piece: Piece) -> bool:
    """Whether its epoch is picked by a score, and not by the head itself or always the last."""
    return not isinstance(piece.head, LightConfig) and piece.training.select_on == "val"


def _pieces(member: Member, config: SystemConfig, number: int) -> Iterator[Piece]:
    """What comes of a model with its `number`-th seed, from 0."""
    seed = config.seed + number
    name = member.name if number == 0 else f"{member.name}.seed{number + 1}"
    head = member.head
    if isinstance(head, LightConfig):
        head = replace(head, seed=seed, epochs=config.epochs or head.epochs)
    training = replace(member.training or FitConfig(), seed=seed)
    training = replace(training, epochs=config.epochs or training.epochs)
    whole = Piece(name=name, model=member.name, tasks=member.tasks, head=head, training=training)
    if not member.epoch_per_task:
        yield whole
        return
    for task in member.tasks:
        yield replace(whole, name=f"{name}.{task}", tasks=(task,), training=replace(training, select=task))
