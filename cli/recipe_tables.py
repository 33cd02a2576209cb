"""Recipes as a person reads them: the list with what each needs, and all about one of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl
from pydantic import JsonValue
from rich import box
from rich.markup import escape
from rich.table import Table

from featurestore.bytesize import format_bytes
from featurestore.store import FeatureStore
from heads.calibration.blend import Blend
from heads.checking import to_json
from heads.light.config import LightConfig
from heads.recipes.member import Member
from heads.recipes.plan import SystemConfig
from heads.recipes.recipe import Recipe
from heads.recipes.standing import Standing, standings
from heads.recipes.tables import recipe_to_table
from heads.recipes.told import AFF_WILD_ROWS, Need

WIDE: Final = 112
"""Columns of a terminal from which on the list shows what encoders cost, too."""
_STATES: Final[Mapping[str, str]] = {
    "absent": "no",
    "incomplete": "partly",
    "other": "other kind",
    "unreadable": "damaged",
}
"""State of an encoder -> a word; `abaw recipes show` tells more."""


N_PAIRS: Final = 6
"""Of models whose errors are shown to be alike; all pairs of four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeLine:
    """A recipe, and how it stands in the workspace's store.

    Attributes
    ----------
    recipe
        Which.
    roles
        How each of its encoders stands there; empty without a store.
    """

    recipe: Recipe
    roles: tuple[Standing, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """As JSON has it: the recipe's own table, and what its encoders cost and lack."""
        table: dict[str, object] = dict(recipe_to_table(self.recipe))
        found = {each.role: each for each in self.roles}
        n_fits, n_folds = n_fits_of(self.recipe)
        table |= {"fits": n_fits, "n_folds": n_folds}
        table["needs"] = {
            role: need_facts(need, found.get(role), to_json(need)) for role, need in self.recipe.needs.items()
        }
        if self.roles:
            table["can_be_fitted"] = all(each.is_ready for each in self.roles)
        return table


def recipe_line(recipe: Recipe, store: FeatureStore | None, use: Mapping[str, str]) -> RecipeLine:
    """A recipe in a store, or by itself.

    Parameters
    ----------
    recipe, store
        Which, and where; None outside of a workspace.
    use
        Role -> encoder, in every recipe that has such a role.
    """
    if store is None:
        return RecipeLine(recipe=recipe)
    roles = {role: name for role, name in use.items() if role in recipe.needs}
    return RecipeLine(recipe=recipe, roles=standings(recipe, store, roles))


def need_facts(need: Need, standing: Standing | None, told: Mapping[str, JsonValue]) -> dict[str, object]:
    """A need as JSON has it, with its cost, and how it stands in a store."""
    n_frames = AFF_WILD_ROWS if standing is None else standing.n_frames
    facts: dict[str, object] = dict(told)
    facts |= {"rows": n_frames, "bytes": need.store_bytes(n_frames), "petaflops": need.petaflops(n_frames)}
    if standing is not None:
        facts |= {
            "encoder": standing.encoder,
            "state": standing.state,
            "rows_done": standing.rows_done,
            "stand_in": standing.stand_in,
            "missing": None if standing.is_ready else standing.command,
            "missing_brings": None if standing.is_ready else standing.brings or None,
        }
    return facts


def n_fits_of(recipe: Recipe) -> tuple[int, int]:
    """How many models are fitted on all of train, and in how many folds each is fitted once more."""
    config = SystemConfig(recipe=recipe, roles={})
    return len(config.fits()), config.n_folds or 0


def recipes_table(lines: Sequence[RecipeLine], *, is_wide: bool = True) -> Table:
    """Recipes, one line for each encoder that they need.

    Parameters
    ----------
    lines
        Of `recipe_line`.
    is_wide
        Whether there are `WIDE` columns; with fewer, challenges and costs are left out.
    """
    has_store = any(line.roles for line in lines)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("recipe", no_wrap=True)
    if is_wide:
        table.add_column("", no_wrap=True)
    table.add_column("val P", justify="right", no_wrap=True)
    table.add_column("test P", justify="right", no_wrap=True)
    table.add_column("needs", overflow="fold")
    table.add_column("columns", justify="right", no_wrap=True)
    if has_store:
        table.add_column("in the store", no_wrap=True)
    if is_wide:
        table.add_column("takes", justify="right", no_wrap=True)
        table.add_column("PFLOP", justify="right", no_wrap=True)
    for number, line in enumerate(lines):
        if number:
            table.add_section()
        for row in _rows(line, is_wide=is_wide):
            table.add_row(*row)
    return table


def recipes_remarks(lines: Sequence[RecipeLine], *, is_wide: bool = True) -> Iterator[str]:
    """What stands under the list (see `recipes_table`): what the figures are of, and what brings what is missing."""
    n_frames = next((each.n_frames for line in lines for each in line.roles), None)
    rows = f"s-Aff-Wild2's {AFF_WILD_ROWS:,} rows" if n_frames is None else f"the store's {n_frames:,} rows"
    if is_wide:
        yield f"takes, PFLOP: of the encoder's embeddings in float16, and of its forward passes (1e15), for {rows}."
    yield "val P, test P: as published, each on its authors' own encoders."
    if any("untold" in line.recipe.published for line in lines):
        yield "?: published without saying of which set."
    if not is_wide:
        yield f"What encoders cost is shown from {WIDE} columns on, and by `abaw recipes show NAME`."
    missing = [(line.recipe.name, each) for line in lines for each in line.roles if not each.is_ready]
    for command in dict.fromkeys(each.command for _, each in missing):
        told = [f"{name}: brings {each.brings}" for name, each in missing if each.command == command and each.brings]
        yield f"missing: {command}" + (f" ({'; '.join(told)})" if told else "")
    if missing:
        yield "Another encoder of the store in its place: --use iresnet100=NAME, which the leaderboard then says."


def recipe_pairs(line: RecipeLine) -> Iterator[tuple[str, str]]:
    """All about a recipe, in pairs of a word and what there is to say."""
    recipe = line.recipe
    where = ", ".join(str(each) for each in (recipe.challenge, recipe.year) if each)
    told = (("published", where), ("source", recipe.source), ("link", recipe.link))
    yield from ((word, text) for word, text in told if text)
    for name, scores in recipe.published.items():
        known = {"P": scores.p, "AU": scores.au, "EXPR": scores.expr, "VA": scores.va}
        word = "set not told" if name == "untold" else name
        yield word, ", ".join(f"{part} {score:.4f}" for part, score in known.items() if score is not None)
    found = {each.role: each for each in line.roles}
    for role, need in recipe.needs.items():
        n_frames = found[role].n_frames if role in found else AFF_WILD_ROWS
        cost = "" if need.gflops is None else f", {need.gflops:g} GFLOP a frame"
        size = f"{_shape(need)}, {format_bytes(need.store_bytes(n_frames))} at {n_frames:,} rows{cost}"
        yield f"needs {role}", f"{need.what} ({size})"
        if role in found:
            yield "", f"in the store: {_told(found[role])}"
            if not found[role].is_ready:
                yield "", f"missing: {found[role].remedy}"
    for member in recipe.models:
        yield f"model {member.name}", _model(member)
    yield "blend", _blend(recipe)
    yield "post", _post(recipe)
    n_fits, n_folds = n_fits_of(recipe)
    yield "fits", f"{n_fits}" + (f", and once more in each of {n_folds} folds of train" if n_folds else "")
    yield from (("note", note) for note in recipe.notes)


def blend_lines(blend: Blend) -> Iterator[str]:
    """What the fits weigh in each task, and how that came about."""
    for task, weights in blend.weights.items():
        told = ", ".join(f"{weight:.2f} {member}" for member, weight in weights.items() if weight)
        way = f" ({blend.ways[task]})" if task in blend.ways else ""
        yield f"{task}: {told}{way}"
        if task in blend.scores:
            tried = ", ".join(f"{name} {score:.4f}" for name, score in blend.scores[task].items())
            yield f"  on folds that the weights were not fitted on: {tried}"


def error_lines(errors: pl.DataFrame) -> Iterator[str]:
    """How alike the errors of a task's models are: the most alike pairs of each task.

    Parameters
    ----------
    errors
        Of a fitted system (see `FittedSystem`).
    """
    for (task, rows), pairs in errors.group_by("task", "rows", maintain_order=True):
        known = pairs.drop_nulls("correlation").sort("correlation", descending=True, maintain_order=True)
        shown = known.head(N_PAIRS).iter_rows(named=True)
        told = [f"{row['first']} and {row['second']} {row['correlation']:.3f}" for row in shown]
        more = f"; {pairs.height - len(told)} more in errors.csv" if pairs.height > len(told) else ""
        yield f"correlation of errors in {task} ({rows}): {', '.join(told) or 'none is known'}{more}"


def _rows(line: RecipeLine, *, is_wide: bool) -> Iterator[tuple[str, ...]]:
    recipe = line.recipe
    challenge = (recipe.challenge,) if is_wide else ()
    first: tuple[str, ...] = (recipe.name, *challenge, *_published(recipe))
    found = {each.role: each for each in line.roles}
    for role, need in recipe.needs.items():
        standing = found.get(role)
        n_frames = AFF_WILD_ROWS if standing is None else standing.n_frames
        flops = need.petaflops(n_frames)
        state = () if standing is None else (escape(_state(standing)),)
        cost = (format_bytes(need.store_bytes(n_frames)), "-" if flops is None else f"{flops:.3g}") if is_wide else ()
        yield (*first, escape(role), _shape(need), *state, *cost)
        first = ("",) * len(first)


def _published(recipe: Recipe) -> tuple[str, str]:
    """P on val and on test; one without its set stands for val's, marked."""
    scores = {name: each.p for name, each in recipe.published.items()}
    val, test = ("-" if scores.get(name) is None else f"{scores[name]:.3f}" for name in ("val", "test"))
    untold = scores.get("untold")
    return (f"{untold:.3f}?" if val == "-" and untold is not None else val), test


def _state(standing: Standing) -> str:
    """In a word; of a stand-in, which encoder, and its columns if they are others."""
    if not standing.is_ready:
        return _STATES[standing.state]
    if standing.stand_in is None:
        return "yes"
    shape = standing.shape or ()
    columns = "" if shape == standing.need.row_shape else f": {' x '.join(map(str, shape))}"
    return f"{standing.encoder}{columns}"


def _told(standing: Standing) -> str:
    """In words."""
    if standing.is_ready:
        return standing.stand_in or "yes"
    return "no" if standing.state == "absent" else standing.problem


def _shape(need: Need) -> str:
    return " x ".join(str(length) for length in need.row_shape)


def _model(member: Member) -> str:
    head = member.head
    answers = f"{', '.join(member.tasks)} from {' + '.join(head.encoders)}"
    if isinstance(head, LightConfig):
        return f"{answers}: {head.estimator}"
    joined = "" if head.joint == member.tasks else f", joint {', '.join(head.joint)}"
    window = "" if head.temporal == "none" else f" {head.seq}/{head.step}"
    parts = [head.fusion] if head.fusion != "none" else []
    parts += [f"{head.temporal}{window}"] if head.temporal != "none" else []
    parts += [head.framework] if head.framework != "share-encoder" else []
    parts += [f"hidden {', '.join(map(str, head.hidden_layers))}"] if head.hidden_layers else []
    return f"{answers}{joined}: {'; '.join(parts) or 'linear'}"


def _blend(recipe: Recipe) -> str:
    several = [task for task in recipe.tasks if len(recipe.answering(task)) > 1]
    if not several:
        return "none: one model a task"
    match recipe.blend.how:
        case "fitted":
            return "weights fitted to out-of-fold predictions of train"
        case "best":
            return "for each task the model that is best on train, out of fold"
    given = [
        f"{task}: {', '.join(f'{name} {weight:g}' for name, weight in weights.items())}"
        for task, weights in recipe.blend.weights.items()
    ]
    return "; ".join([*given, "means" if not given else "means of the other tasks"])


def _post(recipe: Recipe) -> str:
    post = recipe.post
    parts = [f"{kind} smoothing of {task}" for task, kind in post.smoothing.items() if kind != "none"]
    named = (("thresholds", post.thresholds), ("class bias", post.class_bias), ("rescaled V and A", post.rescale))
    parts += [name for name, is_asked in named if is_asked]
    return ", ".join(parts) or "none"
