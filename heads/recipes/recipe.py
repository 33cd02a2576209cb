"""A recipe: everything that makes a published system, on encoders of a store.

A system is some models, each on its own encoders and for its own tasks, their blend, and what is done to the
predictions afterwards. A recipe says that, what was published of the system, which encoders it is made for, and, in
its notes, what is not published and which default stands in. It is a TOML file (see `tomlfile`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from featurestore.errors import unknown_name
from heads.calibration.config import PostConfig
from heads.checking import at_least, raise_all
from heads.light.config import LightConfig
from heads.tasks import in_task_order

from .member import BlendPlan, Member
from .names import name_mistakes
from .told import SETS, Need, Published


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A system that can be fitted.

    Attributes
    ----------
    name
        Short, as on the command line.
    title
        Whose system it is, and what it is, in a line.
    models
        The models.
    needs
        Role -> the encoder that it is made for.
    blend
        How models that answer one task are put together.
    post
        What is fitted to the blended predictions; nothing by default.
    folds
        Of the train split, by video, in which each model is fitted once more; None for no folds, unless the blend or
        the post-processing needs them.
    seeds
        Fits of each model that differ in the seed; their predictions are averaged.
    challenge, year, source, link
        Where it was published: the challenge, the paper's title, where it is found.
    published
        Set (`SETS`) -> the scores that are known.
    notes
        What is not published and which default stands in; what differs from the paper.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    name: str
    title: str
    models: tuple[Member, ...]
    needs: Mapping[str, Need]
    blend: BlendPlan = field(default_factory=BlendPlan)
    post: PostConfig = field(default_factory=PostConfig)
    folds: int | None = None
    seeds: int = 1
    challenge: str = ""
    year: int | None = None
    source: str = ""
    link: str = ""
    published: Mapping[str, Published] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        raise_all(f"recipe {self.name}", self._mistakes())

    def _mistakes(self) -> list[str]:
        mistakes = name_mistakes("name", self.name)
        if not self.title:
            mistakes.append("title must say what the system is.")
        mistakes += at_least(2, folds=self.folds) + at_least(1, seeds=self.seeds)
        names = [member.name for member in self.models]
        if not names:
            mistakes.append("it needs at least one [[model]].")
        mistakes += [f"model {name!r} is there twice." for name in dict.fromkeys(names) if names.count(name) > 1]
        mistakes += self.blend.mistakes(self.models)
        mistakes += [
            f"published is of {', '.join(SETS[:-1])} or {SETS[-1]}, not {name!r}."
            for name in self.published
            if name not in SETS
        ]
        return mistakes + self._need_mistakes()

    def _need_mistakes(self) -> list[str]:
        mistakes = []
        used = {role for member in self.models for role in member.head.encoders}
        absent = sorted(used - set(self.needs))
        if absent:
            mistakes.append(f"needs must say which encoders are meant by {', '.join(absent)}.")
        idle = sorted(set(self.needs) - used)
        if idle:
            mistakes.append(f"needs names {', '.join(idle)}, which no model reads.")
        for member in self.models:
            reads_tokens = not isinstance(member.head, LightConfig) and member.head.reads_tokens
            for role in member.head.encoders:
                if role in self.needs and bool(self.needs[role].tokens) != reads_tokens:
                    wanted = "patch tokens" if reads_tokens else "one vector a frame"
                    mistakes.append(f"model {member.name!r} reads {wanted}, which {role!r} of needs is not.")
        return mistakes

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the system answers, in the order au, expr, v, a."""
        return in_task_order(task for member in self.models for task in member.tasks)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The roles that models read, each once, in their order."""
        return tuple(dict.fromkeys(role for member in self.models for role in member.head.encoders))

    def on(self, encoders: Mapping[str, str]) -> "Recipe":
        """The same system on encoders of a store: role -> name; a role that is not named keeps its own.

        Raises
        ------
        UnknownNameError
            If there is no such role.
        ConfigError
            If two roles of one model are played by one encoder, or one of vectors would be read as tokens.
        """
        for role in encoders:
            if role not in self.needs:
                raise unknown_name(f"role in recipe {self.name!r}", role, self.needs)
        models = tuple(member.on(encoders) for member in self.models)
        # Of roles that one encoder plays in different models, the first tells what it is.
        needs: dict[str, Need] = {}
        for role, need in self.needs.items():
            needs.setdefault(encoders.get(role, role), need)
        return replace(self, models=models, needs=needs)

    def answering(self, task: str) -> tuple[Member, ...]:
        """The models that answer a task."""
        return tuple(member for member in self.models if task in member.tasks)
