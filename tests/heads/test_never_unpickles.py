"""Reading a run executes nothing that stands in its files."""

import ast
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import heads
from featurestore.errors import ConfigError
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.light.config import LightConfig
from heads.light.fit import fit_light
from heads.light.model import LightModel
from heads.modules.config import HeadConfig
from heads.runs.run import Run

UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(Path(heads.__path__[0]).rglob("*.py")):
        yield path, ast.parse(path.read_text(), str(path))


def unpickling(tree: ast.Module) -> Iterator[str]:
    """Whatever in a file could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {each.name}" for each in node.names if each.name.partition(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom):
            origin = (node.module or "").partition(".")[0]
            if origin in UNPICKLERS or (origin in ("torch", "numpy") and any(a.name == "load" for a in node.names)):
                yield f"from {node.module} import"
        elif isinstance(node, ast.Attribute) and node.attr == "load" and isinstance(node.value, ast.Name):
            if node.value.id in ("torch", "np", "numpy"):
                yield f"{node.value.id}.load"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield "allow_pickle"
        elif isinstance(node, ast.Name) and node.id in ("eval", "exec"):
            yield node.id


def test_nothing_in_heads_unpickles() -> None:
    found = {str(path): list(unpickling(tree)) for path, tree in sources()}
    assert len(found) > 40
    assert {path: uses for path, uses in found.items() if uses} == {}


def test_the_search_finds_what_it_looks_for() -> None:
    for text in (
        "import pickle",
        "from joblib import load",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')",
    ):
        assert list(unpickling(ast.parse(text))), text
    assert not list(unpickling(ast.parse("from safetensors.torch import load_file\nRun.load(x)\nmodel.eval()")))


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def booby_trapped(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Put a pickle in a file's place, as torch writes it or bare."""
    mark = tmp_path / "executed"

    def trap(path: Path, *, bare: bool = False) -> None:
        if bare:
            path.write_bytes(pickle.dumps(Payload(mark)))
        else:
            torch.save({"weight": Payload(mark)}, path)

    yield trap
    assert not mark.exists()


def test_a_payload_does_its_work_where_it_is_unpickled(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "executed")}, tmp_path / "trap.pt")
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("bare", [True, False])
def test_a_run_with_a_pickle_for_weights_is_refused(
    features: FeatureSet, tmp_path: Path, booby_trapped: Callable[..., None], bare: bool
) -> None:
    head = HeadConfig(encoder="mae", temporal="none", seq=1)
    Run.from_fit(fit(features, head, FitConfig(epochs=1, batch_frames=512)), features).save(tmp_path / "run")
    for name in ("head.safetensors", "predictions.parquet"):
        kept = (tmp_path / "run" / name).read_bytes()
        booby_trapped(tmp_path / "run" / name, bare=bare)
        with pytest.raises(ConfigError, match=r"A run's files were expected, but one of them cannot be read"):
            Run.load(tmp_path / "run")
        (tmp_path / "run" / name).write_bytes(kept)
    assert Run.load(tmp_path / "run").head == head.resolved()


def test_a_light_head_with_a_pickle_for_arrays_is_refused(
    features: FeatureSet, tmp_path: Path, booby_trapped: Callable[..., None]
) -> None:
    config = LightConfig(estimator="ridge", encoder="mae", joint=("v",))
    model = fit_light(features, config).model
    model.save(tmp_path)
    booby_trapped(tmp_path / "light.safetensors")
    with pytest.raises(ConfigError, match=r"A light head's arrays were expected, but they cannot be read"):
        LightModel.load(tmp_path, config, model.shapes)
