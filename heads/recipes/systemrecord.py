"""The record of a system, `system.json`: which recipe, on which encoders, how it was fitted and what it came to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from featurestore.errors import AbawError, ConfigError, MissingFileError
from heads.calibration.blend import Blend
from heads.checking import from_json
from heads.light.config import IN_EARLIER_RECORDS as LIGHT_BEFORE
from heads.modules.config import IN_EARLIER_RECORDS as HEAD_BEFORE

from .plan import SystemConfig
from .tables import recipe_from_table, recipe_to_table

SYSTEM_FILE: Final = "system.json"
FORMAT: Final = 1
"""Of the system's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRecord:
    """What `system.json` holds.

    Attributes
    ----------
    name
        Of the system's folder.
    config
        Recipe, roles, seed, and what the fit might look at.
    members
        The names of its fits, each a run in ``members/``.
    blend
        Task -> member -> weight, and how they came about.
    encoders, shapes
        Encoder -> fingerprint of its embeddings' provenance, and row shape of them.
    stand_ins
        Encoders that are not those the recipe is made for, in words.
    frames, labels
        Fingerprint of the frame table, digest of its labels and splits.
    selected_on
        What picked the members' epochs, each way once.
    calibrated_on
        What the post-processing was calibrated on; None without one.
    parameters
        How many numbers were fitted.
    seconds
        Of everything.
    versions
        Package -> version.
    stream_bytes
        Budget of the stream that the embeddings came by; None if they were loaded as a whole (see `RunRecord`).
    format
        Of the folder.
    """

    name: str
    config: SystemConfig
    members: tuple[str, ...]
    blend: Blend
    encoders: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    stand_ins: tuple[str, ...]
    frames: str
    labels: str
    selected_on: tuple[str, ...]
    calibrated_on: str | None
    parameters: int
    seconds: float
    versions: Mapping[str, str]
    stream_bytes: int | None = None
    format: int = field(default=FORMAT)

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return {
            "kind": "system",
            "format": self.format,
            "name": self.name,
            "config": config_to_dict(self.config),
            "members": list(self.members),
            "blend": self.blend.to_dict(),
            "encoders": dict(self.encoders),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "stand_ins": list(self.stand_ins),
            "frames": self.frames,
            "labels": self.labels,
            "selected_on": list(self.selected_on),
            "calibrated_on": self.calibrated_on,
            "parameters": self.parameters,
            "seconds": self.seconds,
            "versions": dict(self.versions),
            "stream_bytes": self.stream_bytes,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "SystemRecord":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If something is missing, unknown or of another kind.
        """
        rest: dict[str, Any] = {name: value for name, value in values.items() if name != "kind"}
        for name in ("config", "blend"):
            if not isinstance(rest.get(name), dict):
                raise ConfigError(f"The saved configuration cannot be used: {name} is missing.")
        rest["config"] = config_from_dict(rest["config"])
        rest["blend"] = Blend.from_dict(rest["blend"])
        return from_json(cls, rest)

    def configuration(self) -> dict[str, JsonValue]:
        """What decides the numbers (see `system_configuration`)."""
        return system_configuration(self.config, self.encoders, frames=self.frames, labels=self.labels)

    def in_sample(self, split: str) -> str | None:
        """Why a score on a split is no score of unseen frames; None if it is one.

        That epochs were picked by the score on val is less, and told apart (`selected_on`).
        """
        if split == "train":
            return "the models were trained on these frames"
        if split == self.calibrated_on:
            return "the post-processing was calibrated on these frames"
        return None


def config_to_dict(config: SystemConfig) -> dict[str, JsonValue]:
    """A system's configuration for JSON, the recipe in full: its defaults may change."""
    return {
        "recipe": recipe_to_table(config.recipe, full=True),
        "roles": dict(config.roles),
        "seed": config.seed,
        "calibrate_on": config.calibrate_on,
        "folds": config.folds,
        "epochs": config.epochs,
        "select_on_folds": config.select_on_folds,
    }


def config_from_dict(values: Mapping[str, JsonValue]) -> SystemConfig:
    """The inverse of `config_to_dict`.

    Raises
    ------
    ConfigError
        If something is missing, unknown or of another kind.
    """
    recipe = values.get("recipe")
    if not isinstance(recipe, dict):
        raise ConfigError("The saved configuration cannot be used: recipe is missing.")
    rest: dict[str, Any] = {**values, "recipe": recipe_from_table(_completed(recipe))}
    return from_json(SystemConfig, rest)


def _completed(recipe: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """A saved recipe, with the settings added that earlier versions did not write."""
    models = recipe.get("model")
    return {**recipe, "model": [_completed_model(each) for each in models]} if isinstance(models, list) else {**recipe}


def _completed_model(model: JsonValue) -> JsonValue:
    if not isinstance(model, dict):
        return model  # refused when it is read
    for part, earlier in (("head", HEAD_BEFORE), ("light", LIGHT_BEFORE)):
        settings = model.get(part)
        if isinstance(settings, dict):
            model = {**model, part: {**earlier, **settings}}
    return model


def system_configuration(
    config: SystemConfig, encoders: Mapping[str, str], *, frames: str, labels: str
) -> dict[str, JsonValue]:
    """What decides a system's numbers: what was asked for, its encoders' fingerprints, the frames and their labels."""
    recipe = config.recipe.on(config.roles)
    used: dict[str, JsonValue] = {name: encoders[name] for name in recipe.encoders}
    return {**config_to_dict(config), "encoders": used, "frames": frames, "labels": labels}


def read_system(directory: Path) -> SystemRecord:
    """A system's record alone: which encoders to load, before anything heavy is read.

    Raises
    ------
    MissingFileError
        If there is no system.
    ConfigError
        If its system.json cannot be read as one.
    """
    path = directory / SYSTEM_FILE
    if not path.is_file():
        what = f"holds no {SYSTEM_FILE}" if directory.is_dir() else "is not there"
        raise MissingFileError(
            f"A system is a folder with a {SYSTEM_FILE}; {directory} {what}. "
            "Run `abaw fit-heads --recipe NAME` to make one, or give its path."
        )
    try:
        values = json.loads(path.read_bytes())
        found = values.get("format") if isinstance(values, dict) else None
        if found == FORMAT:
            return SystemRecord.from_dict(values)
    except (AbawError, ValueError) as error:
        raise ConfigError(f"A system's record cannot be read: {error} (file: {path}). Fit it again.") from error
    raise ConfigError(
        f"Systems of format {FORMAT} can be read, this one has format {found} (file: {path}). "
        "Use the version of abaw that wrote it."
    )
