"""`abaw search`: the strategy search over cached embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .features import load_features
from .options import (
    HEAD_PANEL,
    DeviceOption,
    JsonOption,
    MemoryOption,
    ParallelOption,
    SeedOption,
    WorkspaceOption,
)
from .seeds import parse_seeds

if TYPE_CHECKING:
    from featurestore.store import FeatureStore
    from heads.search.budget import Budget
    from heads.search.config import SearchConfig
    from heads.search.searching import SearchProgress, SearchResult

_HERE = Path()


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("search", rich_help_panel=HEAD_PANEL)(search)


def search(
    *,
    task: Annotated[str, typer.Option(help="What to search for: au, expr, v, a, or p: all four together.")],
    budget: Annotated[
        str, typer.Option(help="Of all runs of this search together: 30m, 90s, 2h or '50 trials'.")
    ] = "30m",
    encoders: Annotated[
        str, typer.Option(help="Encoders to choose from, such as mae,au,v.", show_default="all of the store")
    ] = "",
    honest: Annotated[
        bool, typer.Option("--honest", help="Select by folds of train: the best one's score on val is then honest.")
    ] = False,
    folds: Annotated[int, typer.Option(min=2, help="With --honest: folds of train's videos.")] = 5,
    seeds: Annotated[str, typer.Option(help="Of the fits, such as 1,2,3: a trial's score is their mean.")] = "1",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train windows; the best one is kept.")] = 20,
    batch_frames: Annotated[
        int | None, typer.Option(min=1, help="Rows a step.", show_default="by the rows there are")
    ] = None,
    seed: SeedOption = 1,
    parallel: ParallelOption = "auto",
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    name: Annotated[str | None, typer.Option(help="Of the search.", show_default="the task")] = None,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Search for the best inputs, fusion, tasks joined, time and weights; the best becomes a recipe.

    Run again, a search goes on where it stopped, killed or not; with a larger budget, beyond.

    For example: abaw search --task v --budget 30m --honest
    """
    from heads.checking import raise_all
    from heads.fitting.config import FitConfig
    from heads.fitting.parallel import resolve_parallel
    from heads.recipes.names import name_mistakes
    from heads.search.budget import parse_budget
    from heads.search.config import SearchConfig
    from heads.search.searching import search as run_search
    from heads.search.study import need_optuna
    from heads.tasks import parse_names

    from .console import progress_bar, say
    from .workspace import open_workspace

    task, allowed = task.lower(), parse_budget(budget)
    training = FitConfig(epochs=epochs, batch_frames=batch_frames, device=device)
    config = SearchConfig(
        task=task, training=training, seeds=parse_seeds(seeds), n_folds=folds if honest else None, seed=seed
    )
    name = (f"{task}-honest" if honest else task) if name is None else name
    raise_all("search", name_mistakes("name", name))
    need_optuna()
    opened = open_workspace(workspace)
    store = opened.open_store()
    features = load_features(store, parse_names(encoders) or _vector_encoders(store), device, memory)
    with progress_bar(f"search {name}", "s" if allowed.trials is None else "trials") as update:

        def on_trial(progress: "SearchProgress") -> None:
            update(*_place(progress, allowed), _told(progress))
            if progress.trial is not None and progress.trial.outcome.error:
                say(f"trial {progress.trial.number} failed: {progress.trial.outcome.error}")

        found = run_search(
            features,
            config,
            allowed,
            folder=opened.root / "searches" / name,
            parallel=resolve_parallel(parallel, features),
            on_trial=on_trial,
        )
    _print(found, config, budget=allowed, json_=json_)


def _vector_encoders(store: "FeatureStore") -> tuple[str, ...]:
    """The store's complete encoders of one vector a frame; what is left out is said."""
    from featurestore.errors import MissingEmbeddingsError

    from .console import say

    found = []
    for name in store.names():
        embedding = store.embedding(name)
        if len(embedding.row_shape) != 1:
            say(f"{name} left out, it holds tokens.")
        elif not embedding.is_complete():
            say(f"{name} left out, it is not complete: `abaw extract --encoder {name}` goes on with it.")
        else:
            found.append(name)
    if not found:
        raise MissingEmbeddingsError(
            f"A search needs embeddings of at least one encoder, one vector a frame, but there are none (store: "
            f"{store.location}). Extract some with `abaw extract --encoder mae,au,v`."
        )
    return tuple(found)


def _place(progress: "SearchProgress", budget: "Budget") -> tuple[int, int]:
    if budget.trials is not None:
        return progress.n_finished, budget.trials
    whole = round(budget.seconds or 0)
    return min(round(progress.spent_s), whole), whole


def _told(progress: "SearchProgress") -> str:
    best = "" if progress.best is None else f", best {progress.best:.4f}"
    return f"{progress.n_finished} trials{best}"


def _print(found: "SearchResult", config: "SearchConfig", *, budget: "Budget", json_: bool) -> None:
    from heads.search.searching import FIGURE_FILE, RECIPE_FILE, TRIALS_FILE
    from heads.search.space import strategy

    from .console import print_json, stdout
    from .render import scores_table

    counts = {state: sum(trial.state == state for trial in found.trials) for state in ("complete", "pruned", "failed")}
    files = {name: str(found.folder / name) for name in (TRIALS_FILE, RECIPE_FILE, FIGURE_FILE)}
    told = strategy(found.best.candidate)
    if json_:
        print_json(
            {
                "task": config.task,
                "trials": counts,
                "spent_s": round(found.spent_s, 3),
                "selected_on": found.selected_on,
                "score": found.best.outcome.score,
                "trial": found.best.number,
                "strategy": told,
                "val_is_honest": config.is_honest,
                "val": None if found.scores is None else found.scores.as_dict(),
                "files": files,
            }
        )
        return
    seen = "val, honest: it had no part in the search" if config.is_honest else "val, selected there: optimistic"
    if found.scores is None:
        stdout.print(f"best of {len(found.trials)} trials; val has no labels to score it by", markup=False)
    else:
        stdout.print(scores_table(found.scores, title=f"best of {len(found.trials)} trials, {seen}"))
    stdout.print(
        f"trial {found.best.number}: {config.task} {found.best.outcome.score:.4f}, selected on {found.selected_on}"
    )
    for key, value in told.items():
        stdout.print(f"  {key.replace('_', ' '):<14} {value if value != '' else '-'}", markup=False)
    lost = ", ".join(f"{counts[state]} {state}" for state in ("pruned", "failed") if counts[state])
    stdout.print(
        f"{counts['complete']} trials complete{f', {lost}' if lost else ''}, {found.spent_s:.0f} s "
        f"(budget: {budget.describe()}; a larger one goes on)"
    )
    # With the seed that the score is of, or the first of them.
    stdout.print(f"abaw fit-heads --recipe {files[RECIPE_FILE]} --seed {config.seeds[0]}", markup=False)
    stdout.print(f"{files[TRIALS_FILE]}, {files[FIGURE_FILE]}", markup=False)
