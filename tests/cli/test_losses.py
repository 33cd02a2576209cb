"""Losses as options of a command that trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.usefixtures("workspace")
def test_finetune_takes_losses_and_writes_them_down(abaw: Callable[..., Any]) -> None:
    loss = "au=asymmetric,au_balance=5,weighting=uncertainty"
    made = abaw("finetune", "--task", "au", "--epochs", 1, "--batch", 32, "--name", "au2", "--loss", loss, "--json")
    assert made.code == 0, made.err
    options = made.json()["origin"]["options"]["loss"]
    assert (options["au"], options["au_balance"], options["weighting"]) == ("asymmetric", 5.0, "uncertainty")
    assert options["v"] == "ccc"


def test_losses_that_there_are_not_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    told = refused(2, "finetune", "--task", "au", "--loss", "au=fokal", "-w", tmp_path)
    assert "no loss of action units 'fokal'. Did you mean 'focal'?" in told
    told = refused(2, "finetune", "--task", "au", "--loss", "smoothing=.1", "-w", tmp_path)
    assert "no setting of the losses 'smoothing'" in told
