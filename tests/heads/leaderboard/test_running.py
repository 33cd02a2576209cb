"""The leaderboard: finished systems are kept, stale ones dropped, stand-ins and failures told."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from rich.console import Console

from featurestore.errors import ConfigError, FileExistsAlreadyError, UnknownNameError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.calibration.config import PostConfig
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.leaderboard.config import BoardConfig
from heads.leaderboard.lines import board_lines
from heads.leaderboard.rows import SCHEMA
from heads.leaderboard.running import EntryReport, Leaderboard, run_leaderboard
from heads.leaderboard.table import remarks, render_board
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig
from heads.recipes.fitting import FitStep
from heads.recipes.member import Member
from heads.recipes.recipe import Recipe
from heads.recipes.system import System
from heads.recipes.systemrecord import read_system
from heads.recipes.told import Need, Published

ALL = ("au", "expr", "v", "a")


def linear(name: str, encoder: str, **rest: object) -> Recipe:
    """A system that is fitted in milliseconds."""
    head = HeadConfig(encoder=encoder, temporal="none", seq=1, normalise=False, hidden=())
    return Recipe(  # type: ignore[arg-type]
        name=name,
        title="t",
        models=(Member(name="m", tasks=ALL, head=head, training=FitConfig(epochs=1)),),
        needs={encoder: Need(what=encoder, dim=16)},
        **rest,
    )


FIRST = linear("first", "mae", post=PostConfig(thresholds=True, least_gain=0.0), folds=2, notes=("n",))
SECOND = linear("second", "arcface", published={"val": Published(p=1.5), "test": Published(p=1.25, au=0.5)})
SMALL = Recipe(
    name="small",
    title="t",
    models=(Member(name="m", tasks=("v", "a"), head=LightConfig(estimator="ridge", joint=("v", "a"))),),
    needs={"mae": Need(what="mae", dim=16)},
)
"""One that is saved in no time, since it has no curve to draw."""
CONFIG = BoardConfig(device="cpu", save=False)


@pytest.fixture
def own_store(small_frames: FrameTable, fill_store: Callable[[FeatureStore], None], tmp_path: Path) -> FeatureStore:
    """To change at will."""
    made = FeatureStore.create(tmp_path / "features", small_frames)
    fill_store(made)
    return made


def run(
    store: FeatureStore, out: Path, *recipes: Recipe, config: BoardConfig = CONFIG
) -> tuple[Leaderboard, list[EntryReport], list[str]]:
    reports: list[EntryReport] = []
    notes: list[str] = []
    board = run_leaderboard(store, recipes, config, out=out, on_entry=reports.append, on_note=notes.append)
    return board, reports, notes


def test_every_stage_is_a_row_beside_the_published_scores(small_store: FeatureStore, tmp_path: Path) -> None:
    config = replace(CONFIG, use={"arcface": "au"})
    board, _, _ = run(small_store, tmp_path, FIRST, SECOND, config=config)
    rows = board.rows
    assert rows.schema == SCHEMA
    assert rows.select("system", "stage").rows() == [("first", "raw"), ("first", "post"), ("second", "raw")]
    assert rows["published_val"].to_list() == [None, None, 1.5]
    assert rows["published_test_au"].to_list() == [None, None, 0.5]
    assert rows["calibrated_on"].to_list() == [None, "train, out of fold", None]
    assert rows["in_sample"].null_count() == 3
    assert rows["stand_ins"].to_list() == [None, None, "arcface=au"]
    assert (rows["p_low"] <= rows["p"] + 1e-9).all()
    assert (rows["p"] <= rows["p_high"] + 1e-9).all()
    parts = (rows["ccc_valence"] + rows["ccc_arousal"]) / 2 + rows["f1_expression"] + rows["f1_au"]
    assert np.allclose(parts, rows["p"])


def test_finished_systems_are_kept(small_store: FeatureStore, tmp_path: Path) -> None:
    first, reports, _ = run(small_store, tmp_path, FIRST)
    again, kept, notes = run(small_store, tmp_path, FIRST)
    assert [report.is_kept for report in (*reports, *kept)] == [False, True]
    assert again.rows.equals(first.rows)
    assert notes == []
    assert pl.read_csv(tmp_path / "leaderboard.csv", schema=SCHEMA).equals(first.rows)


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        ({"notes": ("other",), "title": "other"}, True),
        ({"name": "mine"}, False),
        ({"folds": 3}, False),
        ({"post": PostConfig()}, False),
        ({"seeds": 2}, False),
    ],
)
def test_what_a_recipe_only_tells_decides_nothing(
    small_store: FeatureStore, tmp_path: Path, change: dict[str, object], is_kept: bool
) -> None:
    run(small_store, tmp_path, FIRST)
    _, reports, _ = run(small_store, tmp_path, replace(FIRST, **change))  # type: ignore[arg-type]
    assert [report.is_kept for report in reports] == [is_kept]


@pytest.mark.parametrize("change", [{"seeds": (2,)}, {"calibrate_on": "val"}, {"folds": 3}, {"use": {"mae": "v"}}])
def test_what_is_asked_for_decides(small_store: FeatureStore, tmp_path: Path, change: dict[str, object]) -> None:
    run(small_store, tmp_path, FIRST)
    _, reports, _ = run(small_store, tmp_path, FIRST, config=replace(CONFIG, **change))  # type: ignore[arg-type]
    assert [report.is_kept for report in reports] == [False]
    table = pl.read_csv(tmp_path / "leaderboard.csv", schema=SCHEMA)
    assert table["key"].n_unique() == 2  # the first one's rows stay


def test_rows_of_other_embeddings_are_dropped(
    own_store: FeatureStore,
    tmp_path: Path,
    label_vectors: Callable[..., NDArray[np.float32]],
    add_encoder: Callable[..., None],
) -> None:
    other = linear("other", "v")
    run(own_store, tmp_path / "out", FIRST, other)
    own_store.remove("mae")
    add_encoder(own_store, "mae", label_vectors(own_store.frames, seed=9), weights="newer")
    _, reports, notes = run(own_store, tmp_path / "out", FIRST, other)
    assert [report.is_kept for report in reports] == [False, True]
    assert len(notes) == 1
    assert "now dropped: 2 of 3" in notes[0]
    assert pl.read_csv(tmp_path / "out" / "leaderboard.csv", schema=SCHEMA)["key"].n_unique() == 2


def test_a_system_whose_encoder_is_gone_is_dropped_and_told(own_store: FeatureStore, tmp_path: Path) -> None:
    run(own_store, tmp_path / "out", FIRST, linear("other", "v"))
    own_store.remove("v")
    board, reports, notes = run(own_store, tmp_path / "out", FIRST, linear("other", "v"))
    assert [report.system for report in reports] == ["first"]
    assert list(board.missing) == ["other"]
    assert board.missing["other"][0].problem == "encoder 'v' is not in the store."
    assert len(notes) == 1
    told = " ".join(remarks(board_lines(board.rows), missing=board.missing, failed=board.failed))
    assert "other: not fitted. encoder 'v' is not in the store. To bring them: abaw extract --encoder v" in told


def test_one_that_fails_does_not_stop_the_others(small_store: FeatureStore, tmp_path: Path) -> None:
    head = HeadConfig(encoder="mae", fuse=("au",), temporal="none", seq=1)
    clash = Recipe(
        name="clash",
        title="t",
        models=(Member(name="m", tasks=ALL, head=head, training=FitConfig()),),
        needs={"mae": Need(what="m", dim=16), "au": Need(what="a", dim=16)},
    )
    config = replace(CONFIG, use={"au": "mae"})
    board, reports, _ = run(small_store, tmp_path, clash, FIRST, config=config)
    assert [bool(report.problem) for report in reports] == [True, False]
    assert list(board.failed) == ["clash"]
    assert "would play mae, au" in board.failed["clash"][1]
    assert board.rows["system"].unique().to_list() == ["first"]
    assert "clash: failed (seed 1)." in (tmp_path / "leaderboard.md").read_text()


def test_systems_are_saved_beside_the_table(small_store: FeatureStore, tmp_path: Path) -> None:
    run(small_store, tmp_path, SMALL, config=replace(CONFIG, save=True))
    assert System.load(tmp_path / "small_seed1").name == "small_seed1"


def test_an_option_is_a_folder_of_its_own(small_store: FeatureStore, tmp_path: Path) -> None:
    saved, recipe = replace(CONFIG, save=True), replace(SMALL, post=PostConfig(rescale=True, least_gain=0.0))
    on_val, on_none = (replace(saved, calibrate_on=split) for split in ("val", "none"))
    for config in (on_val, on_none):
        run(small_store, tmp_path, recipe, config=config)
    _, reports, notes = run(small_store, tmp_path, recipe, config=on_val)
    assert ([report.is_kept for report in reports], notes) == ([True], [])
    assert System.load(tmp_path / "small_seed1-val").record.calibrated_on == "val"
    assert System.load(tmp_path / "small_seed1-none").record.calibrated_on is None


def test_a_finished_system_without_its_folder_is_fitted_again(small_store: FeatureStore, tmp_path: Path) -> None:
    saved = replace(CONFIG, save=True, epochs=1)  # which is no option of a head that is solved at once
    run(small_store, tmp_path, SMALL, config=replace(saved, save=False))
    _, reports, notes = run(small_store, tmp_path, SMALL, config=saved)
    assert [report.is_kept for report in reports] == [False]
    assert "its folder is not there, so it is fitted again" in notes[0]
    # Another encoder in its role takes the folder.
    run(small_store, tmp_path, SMALL, config=replace(saved, use={"mae": "v"}))
    _, reports, notes = run(small_store, tmp_path, SMALL, config=saved)
    assert [report.is_kept for report in reports] == [False]
    assert "its folder does not hold it" in notes[0]
    assert read_system(tmp_path / "small_seed1").config.roles == {}
    # What the recipe only tells is no other system.
    _, reports, notes = run(small_store, tmp_path, replace(SMALL, notes=("new",)), config=saved)
    assert ([report.is_kept for report in reports], notes) == ([True], [])


def test_what_a_recipe_tells_is_told_as_it_is_now(small_store: FeatureStore, tmp_path: Path) -> None:
    run(small_store, tmp_path, SMALL)
    meant = {"mae": Need(what="another", dim=768)}
    told = replace(SMALL, published={"val": Published(p=1.0)}, needs=meant)
    board, reports, _ = run(small_store, tmp_path, told)
    assert [report.is_kept for report in reports] == [True]
    table = pl.read_csv(tmp_path / "leaderboard.csv", schema=SCHEMA)
    for rows in (board.rows, table):
        assert rows["published_val"].to_list() == [1.0]
        assert rows["stand_ins"].to_list() == ["mae (16 columns for 768)"]


def test_a_copy_under_another_name_is_a_system_of_its_own(small_store: FeatureStore, tmp_path: Path) -> None:
    mine = replace(SMALL, name="mine", published={"val": Published(p=2.5)})
    both, _, _ = run(small_store, tmp_path, SMALL, mine)
    assert both.rows.select("system", "published_val").rows() == [("small", None), ("mine", 2.5)]
    assert {line.system: line.n_seeds for line in board_lines(both.rows)} == {"small": 1, "mine": 1}
    alone, reports, _ = run(small_store, tmp_path, mine)
    assert (alone.rows["system"].to_list(), reports[0].is_kept) == (["mine"], True)
    assert pl.read_csv(tmp_path / "leaderboard.csv", schema=SCHEMA).height == 2


def test_every_seed_s_reason_is_kept(small_store: FeatureStore, tmp_path: Path) -> None:
    out = tmp_path / "board"
    for seed in (1, 2):  # each in the way of a folder
        (out / f"small_seed{seed}").mkdir(parents=True)
        (out / f"small_seed{seed}" / "notes.txt").write_text("mine")
    board, _, _ = run(small_store, out, SMALL, config=replace(CONFIG, save=True, seeds=(1, 2)))
    assert list(board.failed["small"]) == [1, 2]
    told = list(remarks([], missing={}, failed=board.failed))
    assert ["small_seed1" in told[0], "small_seed2" in told[1]] == [True, True]
    assert told[1].startswith("small: failed (seed 2). ")
    (same,) = remarks([], missing={}, failed={"small": {1: "No.", 2: "No."}})
    assert same == "small: failed (seeds 1, 2). No."


def test_a_score_without_its_set_is_marked(small_store: FeatureStore, tmp_path: Path) -> None:
    board, _, _ = run(small_store, tmp_path, replace(SMALL, published={"untold": Published(p=1.25)}))
    lines = board_lines(board.rows)
    for is_wide in (True, False):
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(render_board(lines, is_wide=is_wide))
        assert console.export_text().count("1.250?") == 1
    markdown = (tmp_path / "leaderboard.md").read_text()
    assert "1.250?" in markdown
    assert "?: published without saying of which set" in markdown
    assert board.rows["published_val"].null_count() == 1


def test_seeds_are_averaged_in_the_table(small_store: FeatureStore, tmp_path: Path) -> None:
    light = LightConfig(estimator="linear", encoder="mae", joint=("v",))
    recipe = replace(FIRST, models=(Member(name="m", tasks=("v",), head=light),), post=PostConfig())
    board, _, _ = run(small_store, tmp_path, recipe, config=replace(CONFIG, seeds=(1, 2), epochs=2))
    (line,) = board_lines(board.rows)
    assert line.n_seeds == 2
    assert line.scores["ccc_valence"] == pytest.approx(board.rows["ccc_valence"].mean())
    assert line.scores["p"] is None
    assert line.spreads["ccc_valence"].startswith("± ")
    assert "x" in line.marks
    # The videos' interval stays beside the spread over seeds, and a system of one seed is not told to have any.
    low, high = (board.rows[f"ccc_valence_{end}"].mean() for end in ("low", "high"))
    assert [float(end) for end in line.intervals["ccc_valence"].split()] == pytest.approx([low, high], abs=0.006)
    assert line.spreads["p"] == ""
    for is_wide in (True, False):
        console = Console(width=112 if is_wide else 80, record=True, file=io.StringIO())
        console.print(render_board([line], is_wide=is_wide))
        text = console.export_text()
        assert line.intervals["ccc_valence"] in text
        assert line.spreads["ccc_valence"] in text
    markdown = (tmp_path / "leaderboard.md").read_text()
    assert "in brackets 95 % intervals by resampling videos, and after ± the spread over seeds." in markdown
    assert f"({line.intervals['ccc_valence']}, {line.spreads['ccc_valence']})" in markdown
    assert "standard deviation over seeds: first (2)" in markdown


def test_a_score_calibrated_on_val_is_marked(small_store: FeatureStore, tmp_path: Path) -> None:
    board, _, _ = run(small_store, tmp_path, FIRST, config=replace(CONFIG, calibrate_on="val"))
    assert board.rows["in_sample"].to_list() == [None, "the post-processing was calibrated on these frames"]
    assert [("c" in line.marks) for line in board_lines(board.rows)] == [False, True]
    assert "c: in-sample" in "\n".join(remarks(board_lines(board.rows), missing={}, failed={}))


def test_the_best_system_comes_first_and_all_is_shown(small_store: FeatureStore, tmp_path: Path) -> None:
    config = replace(CONFIG, use={"arcface": "au"})
    board, _, _ = run(small_store, tmp_path, FIRST, SECOND, config=config)
    lines = board_lines(board.rows)
    best = {line.system: line.scores["p"] or -1 for line in lines}
    order = list(dict.fromkeys(line.system for line in lines))
    assert order == sorted(best, key=lambda system: -best[system])
    for width, is_wide in ((120, True), (80, False)):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(render_board(lines, is_wide=is_wide))
        text = console.export_text()
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        assert f"{best['second']:.3f}" in text
        assert "1.250" in text
    markdown = (tmp_path / "leaderboard.md").read_text()
    assert markdown.count("| first |") == 2
    assert "arcface=au" in markdown


def test_what_cannot_be_run_is_refused(small_store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no encoder 'aux'. Did you mean 'au'"):
        run(small_store, tmp_path, SECOND, config=replace(CONFIG, use={"arcface": "aux"}))
    with pytest.raises(UnknownNameError, match=r"no role in these recipes 'arcfac'. Did you mean 'arcface'"):
        run(small_store, tmp_path, SECOND, config=replace(CONFIG, use={"arcfac": "au"}))
    with pytest.raises(ConfigError, match=r"system must be named once, got first, first"):
        run(small_store, tmp_path, FIRST, FIRST)
    with pytest.raises(ConfigError, match=r"no split to calibrate on 'vall'.*folds must.*seeds must name each once"):
        BoardConfig(calibrate_on="vall", folds=1, seeds=(1, 1))
    (tmp_path / "leaderboard.csv").write_text("mine\n1\n")
    with pytest.raises(FileExistsAlreadyError, match=r"its columns are mine .*Move it away"):
        run(small_store, tmp_path, FIRST)
    assert (tmp_path / "leaderboard.csv").read_text() == "mine\n1\n"


def test_what_does_not_fit_in_memory_at_once_is_read_system_by_system(
    small_store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, ...]] = []
    original = FeatureSet.load.__func__  # type: ignore[attr-defined]

    def load(cls: type[FeatureSet], store: FeatureStore, names: tuple[str, ...], **rest: object) -> FeatureSet:
        loaded.append(tuple(names))
        made: FeatureSet = original(cls, store, names, **rest)
        return made

    monkeypatch.setattr(FeatureSet, "load", classmethod(load))
    one, two = linear("one", "mae"), linear("two", "au")
    run(small_store, tmp_path / "a", one, two)
    assert loaded == [("mae", "au")]
    loaded.clear()
    n_bytes = len(small_store.frames) * 16 * 2
    run(small_store, tmp_path / "b", one, two, config=replace(CONFIG, memory_bytes=n_bytes + n_bytes // 2))
    assert loaded == [("mae",), ("au",)]
    loaded.clear()
    run(small_store, tmp_path / "a", one, two)
    assert loaded == []  # nothing is to be fitted


def test_two_at_once_keep_each_other_s_rows(small_store: FeatureStore, tmp_path: Path) -> None:
    first, second = linear("first", "mae"), linear("second", "au")
    reports: list[EntryReport] = []

    def another(name: str, _: object) -> None:
        """While the one fits its first system, another one begins, and finishes two."""
        if name == "first" and not (tmp_path / "leaderboard.csv").exists():
            run(small_store, tmp_path, SMALL, second)

    run_leaderboard(small_store, [first, second], CONFIG, out=tmp_path, on_step=another, on_entry=reports.append)
    table = pl.read_csv(tmp_path / "leaderboard.csv", schema=SCHEMA)
    assert sorted(table["system"]) == ["first", "second", "small"]
    assert [report.is_kept for report in reports] == [False, True]
    markdown = (tmp_path / "leaderboard.md").read_text()
    assert [f"| {name} |" in markdown for name in table["system"]] == [True, True, True]


def test_streamed_embeddings_are_another_system(
    own_store: FeatureStore,
    tmp_path: Path,
    label_vectors: Callable[..., NDArray[np.float32]],
    add_encoder: Callable[..., None],
) -> None:
    add_encoder(own_store, "cut", label_vectors(own_store.frames), chunk_rows=4)  # little is enough for its stream
    head = HeadConfig(encoder="cut", temporal="none", seq=1)
    model = Member(name="m", tasks=ALL, head=head, training=FitConfig(epochs=1, batch_frames=4))
    recipe, out = replace(linear("one", "cut"), models=(model,)), tmp_path / "out"
    streamed = replace(CONFIG, save=True, memory_bytes=1500)
    run(own_store, out, recipe)
    for is_kept in (False, True):
        _, reports, notes = run(own_store, out, recipe, config=streamed)
        assert reports[0].problem == ""
        assert ([report.is_kept for report in reports], notes) == ([is_kept], [])
    assert read_system(out / "one_seed1").stream_bytes == 1500
    assert pl.read_csv(out / "leaderboard.csv", schema=SCHEMA)["key"].n_unique() == 2


def test_fine_tuned_encoders_are_named(
    own_store: FeatureStore, tmp_path: Path, label_vectors: Callable[..., NDArray[np.float32]]
) -> None:
    vectors = label_vectors(own_store.frames, seed=3)
    told = own_store.embedding("mae").provenance
    with own_store.writer("tuned", replace(told, weights="t", parent="mae"), row_shape=(16,)) as writer:
        for _, first, stop in writer.pending():
            writer.append(first, vectors[first:stop])
    board, _, _ = run(own_store, tmp_path / "out", linear("plain", "mae"), linear("other", "tuned"))
    assert dict(board.rows.select("system", "tuned").rows()) == {"plain": None, "other": "tuned"}
    lines = board_lines(board.rows)
    assert {line.system: "t" in line.marks for line in lines} == {"plain": False, "other": True}
    under = list(remarks(lines, missing={}, failed={}))
    assert "other: fine-tuned: tuned" in under
    assert any(line.startswith("t: encoders that were fine-tuned") for line in under)
    assert "- other: fine-tuned: tuned\n" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_the_markdown_is_of_all_that_is_true(small_store: FeatureStore, tmp_path: Path) -> None:
    board, _, _ = run(small_store, tmp_path, linear("none", "nobody"))
    assert (board.markdown, (tmp_path / "leaderboard.md").exists()) == (None, False)
    one = linear("one", "mae")
    run(small_store, tmp_path, one)
    run(small_store, tmp_path, one, config=replace(CONFIG, epochs=2, seeds=(1, 2)))
    failing, _, _ = run(small_store, tmp_path, linear("none", "nobody"))
    assert (failing.rows.height, failing.markdown) == (0, tmp_path / "leaderboard.md")
    markdown = (tmp_path / "leaderboard.md").read_text()
    # Those of other options are not averaged with them.
    assert markdown.count("| one |") == markdown.count("| one (epochs2) |") == 1
    assert "standard deviation over seeds: one (epochs2) (2)" in markdown
    assert "none: not fitted." in markdown


@pytest.mark.parametrize("change", [{"calibrate_on": "val"}, {"calibrate_on": "none"}, {"epochs": 3}])
def test_an_option_without_effect_is_no_other_system(
    small_store: FeatureStore, tmp_path: Path, change: dict[str, object]
) -> None:
    saved = replace(CONFIG, save=True)
    run(small_store, tmp_path, SMALL, config=saved)
    _, reports, notes = run(small_store, tmp_path, SMALL, config=replace(saved, **change))  # type: ignore[arg-type]
    assert ([report.is_kept for report in reports], notes) == ([True], [])
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["small_seed1"]


def test_fits_are_counted_over_all_systems(small_store: FeatureStore, tmp_path: Path) -> None:
    one, two = linear("one", "mae"), linear("two", "au", folds=2)
    run(small_store, tmp_path, one)
    steps: list[FitStep] = []
    reports: list[EntryReport] = []
    run_leaderboard(
        small_store,
        [one, two],
        CONFIG,
        out=tmp_path,
        on_step=lambda _, step: steps.append(step),
        on_entry=reports.append,
    )
    assert [(step.done, step.n_fits) for step in steps] == [(2, 4), (3, 4), (4, 4)]
    assert [(each.is_kept, each.fits_done, each.n_fits) for each in reports] == [(True, 1, 4), (False, 4, 4)]
