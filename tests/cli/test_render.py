import io

import numpy as np
from rich.console import Console

from cli.render import comparison_table, details_table
from heads.features.targets import Targets
from heads.scoring.compare import compare
from heads.scoring.predictions import Predictions
from heads.scoring.scores import score


def shown(table: object) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    return out.getvalue().splitlines()


def make() -> tuple[Targets, Predictions, np.ndarray]:
    rng = np.random.default_rng(0)
    n = 40
    yes = np.ones(n, dtype=bool)
    targets = Targets(
        valence=rng.uniform(-1, 1, n).astype(np.float32),
        arousal=rng.uniform(-1, 1, n).astype(np.float32),
        expression=rng.integers(0, 8, n),
        action_units=(rng.random((n, 12)) < 0.5).astype(np.float32),
        valid_valence=yes,
        valid_arousal=yes,
        valid_expression=yes,
        valid_action_units=np.ones((n, 12), dtype=bool),
    )
    units = np.where(targets.action_units > 0.5, 0.9, 0.1)
    units[:, 2] = 1 - units[:, 2]
    predictions = Predictions(rows=np.arange(n), expression=np.eye(8)[targets.expression], action_units=units)
    return targets, predictions, np.repeat([0, 1], 20)


def test_every_class_and_unit_has_its_score() -> None:
    targets, predictions, video = make()
    lines = shown(details_table(score(targets, predictions, video, n_resamples=100), title="a run, val"))
    assert lines[0].strip() == "a run, val"
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert len(cells) == 12
    assert cells[0] == ["Neutral", "1.0000", "au1", "1.0000"]
    assert cells[2][2:] == ["au4", "0.0000"]
    assert cells[8][:2] == ["", ""]
    only = predictions.only(["expr"])
    assert len([line for line in shown(details_table(score(targets, only, video), title="")) if "│" in line]) == 8


def test_names_are_no_markup_and_what_is_missing_is_said() -> None:
    targets, predictions, video = make()
    found = compare(targets, [predictions.only(["expr"])], [predictions], video, n_resamples=100)
    text = "\n".join(shown(comparison_table(found, a="x[i]_1", b="[bold]y")))
    assert "A: x[i]_1" in text
    assert "B: [bold]y" in text
    assert "no F1 action units: task 'au' is not joined" in text
    assert "no P: needs all four parts" in text
