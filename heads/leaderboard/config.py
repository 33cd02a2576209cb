"""What is asked of a leaderboard: `BoardConfig`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.errors import unknown_name
from heads.checking import at_least, raise_all
from heads.recipes.plan import CALIBRATE_ON, SystemConfig
from heads.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardConfig:
    """What is fitted, and what each fit may look at.

    Attributes
    ----------
    use
        Role -> encoder of the store, in every recipe that has such a role.
    seeds
        One fit of every system each.
    calibrate_on, folds, epochs, select_on_folds
        As of `SystemConfig`; in a system in which one of them changes nothing it is left out.
    device, memory_bytes
        As of `FeatureSet.load`.
    save
        Whether each system is saved, in its own folder beside the table (see `system_name`).

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    use: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1,)
    calibrate_on: str = "train"
    folds: int | None = None
    epochs: int | None = None
    select_on_folds: bool = False
    device: str = "auto"
    memory_bytes: int | None = None
    save: bool = True

    def __post_init__(self) -> None:
        mistakes = []
        if self.calibrate_on not in CALIBRATE_ON:
            mistakes.append(str(unknown_name("split to calibrate on", self.calibrate_on, CALIBRATE_ON)))
        mistakes += at_least(2, folds=self.folds) + at_least(1, epochs=self.epochs)
        mistakes += [] if self.seeds else ["seeds must name at least one."]
        if len(set(self.seeds)) < len(self.seeds):
            mistakes.append(f"seeds must name each once, got {', '.join(map(str, self.seeds))}.")
        raise_all("leaderboard", mistakes)

    def roles(self, recipe: Recipe) -> dict[str, str]:
        """What of `use` concerns a recipe."""
        return {role: name for role, name in self.use.items() if role in recipe.needs}

    def encoders(self, recipe: Recipe) -> tuple[str, ...]:
        """What a recipe reads of the store."""
        roles = self.roles(recipe)
        return tuple(dict.fromkeys(roles.get(role, role) for role in recipe.encoders))

    def of(self, recipe: Recipe, seed: int) -> SystemConfig:
        """The fit of one system.

        Raises
        ------
        ConfigError
            If roles of one model are played by one encoder.
        """
        return SystemConfig(
            recipe=recipe,
            roles=self.roles(recipe),
            seed=seed,
            calibrate_on=self.calibrate_on,
            folds=self.folds,
            epochs=self.epochs,
            select_on_folds=self.select_on_folds,
        ).effective()
