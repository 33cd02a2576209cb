"""What the README says of the tree and of the parameters is so."""

import re
from pathlib import Path

from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel

ROOT = Path(__file__).parents[1]
FOLDERS = ("featurestore", "heads", "extractor", "cli")
ROOMS = {
    "heads": (
        *("features", "modules", "losses", "fitting", "light", "scoring", "calibration"),
        *("runs", "recipes", "leaderboard", "ablation", "search", "export"),
    ),
    "featurestore": ("storage", "challenge", "images", "exchange", "inspection"),
    "extractor": ("encoders", "pixels", "extraction", "training", "synth"),
}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_names_every_module_once() -> None:
    listed = sorted(re.findall(r"^  (\w+\.py) ", README, flags=re.MULTILINE))
    folders = [*FOLDERS, *(f"{folder}/{room}" for folder, rooms in ROOMS.items() for room in rooms)]
    there = sorted(path.name for folder in folders for path in (ROOT / folder).glob("*.py"))
    assert listed == [name for name in there if name != "__init__.py"]


def test_the_parameters_are_the_papers() -> None:
    head = HeadConfig(fuse=("au", "v"), temporal_width=None)  # as wide as what is fused, as the paper's
    model = HeadModel(head, dict.fromkeys(("mae", "au", "v"), (768,)))
    for part, n_parameters in ((model.fusion, 1_181_184), (model.temporal, 9_449_472)):
        assert sum(parameter.numel() for parameter in part.parameters()) == n_parameters
        assert f"{n_parameters:,}" in README
