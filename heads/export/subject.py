"""What can be exported: a run, or a system of several."""

from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.errors import ConfigError
from heads.calibration.calibration import Calibration
from heads.features.featureset import FeatureSet
from heads.recipes.system import System
from heads.runs.run import Run
from heads.scoring.predictions import Predictions
from heads.tasks import in_task_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A run or a system as the export looks at it.

    Attributes
    ----------
    made
        What it is.
    name
        Its name.
    encoders
        Encoder -> fingerprint, in the order in which it reads them.
    shapes
        Encoder -> (D,) or (T, D).
    joint
        The tasks that it answers.
    members
        The runs that have a say, by name; a run alone is its own.
    calibration
        Its post-processing; None without one.
    """

    made: Run | System
    name: str
    encoders: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    joint: tuple[str, ...]
    members: Mapping[str, Run]
    calibration: Calibration | None

    @classmethod
    def of(cls, made: Run | System, *, raw: bool = False) -> "Subject":
        """A run or a system; `raw` leaves the post-processing out."""
        record = made.record
        if isinstance(made, Run):
            names, joint = made.head.encoders, made.head.joint
            members = {made.name: made}
        else:
            names, joint = made.encoders, in_task_order(made.record.blend.weights)
            members = {name: made.members[name] for name in made.record.blend.members}
        return cls(
            made=made,
            name=made.name,
            encoders={name: record.encoders[name] for name in names},
            shapes={name: tuple(record.shapes[name]) for name in names},
            joint=joint,
            members=members,
            calibration=None if raw else made.calibration,
        )

    @property
    def weights(self) -> dict[str, dict[str, float]]:
        """Task -> member -> weight, above 0."""
        if isinstance(self.made, Run):
            return {task: {self.name: 1.0} for task in self.joint}
        table = self.made.record.blend.weights
        found = {task: {name: w for name, w in table[task].items() if w > 0} for task in self.joint}
        if not all(found.values()):
            raise ConfigError(f"A system's members weigh something in each task, those of {self.name!r} do not.")
        return found

    def predict(self, features: FeatureSet, *, split: str) -> Predictions:
        """What it says of a split."""
        return self.made.predict(features, split=split, raw=self.calibration is None)
