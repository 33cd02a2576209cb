"""A store where frames are missing and their numbers jump, heads on it, and onnxruntime on what they become."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.calibration.calibration import Affine, Calibration
from heads.calibration.smoothing import Smoothing
from heads.export.graph import OPSET, TREES_DOMAIN, TREES_OPSET, Graph
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.light.config import LightConfig
from heads.light.fit import fit_light
from heads.light.model import LightModel
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.runs.judging import Judging
from heads.runs.record import RunRecord, versions
from heads.runs.run import Run

VIDEOS = {"a": ("train", 40), "b": ("train", 31), "c": ("val", 23), "d": ("val", 1), "e": ("val", 9), "f": ("val", 4)}
SHAPES: Mapping[str, tuple[int, ...]] = {"mae": (12,), "au": (12,), "v": (12,), "wide": (20,), "tokens": (3, 4)}
Outputs = dict[str, NDArray[np.generic]]


@pytest.fixture(scope="session")
def gappy(
    make_frames: Callable[..., FrameTable],
    label_vectors: Callable[..., NDArray[np.float32]],
    add_encoder: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> FeatureSet:
    """Encoders of `SHAPES`; rows of val are missing in `au`, one of them the last of its video, and in `mae`."""
    data = make_frames(VIDEOS).data
    jumps = pl.Series(np.random.default_rng(0).integers(1, 9, len(data)))
    data = data.with_columns(frame=jumps.cum_sum().cast(pl.Int32)).with_columns(
        path=pl.format("{}/{}.jpg", "video", pl.col("frame").cast(pl.String).str.zfill(5))
    )
    frames = FrameTable(data)
    store = FeatureStore.create(tmp_path_factory.mktemp("export") / "features", frames)
    first = int(frames.rows("val")[0])
    missing = {"au": (first + 3, first + 4, first + 22), "mae": (first + 26,)}
    drawn = np.random.default_rng(1)
    for seed, (name, shape) in enumerate(SHAPES.items()):
        vectors = drawn.normal(size=(len(frames), *shape))
        if len(shape) == 1:
            vectors = label_vectors(frames, dim=shape[0], seed=seed)
        failures = dict.fromkeys(missing.get(name, ()), "no image")
        add_encoder(store, name, vectors.astype(np.float32), failures=failures, weights=name)
    return FeatureSet.load(store, tuple(SHAPES), device="cpu")


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    """Every kind of post-processing at once."""
    return Calibration(
        fitted_on="train, out of fold",
        smoothing={
            "v": Smoothing(kind="exp", width=60.0, clip_rows=3),
            "a": Smoothing(kind="gaussian", width=7.0, clip_rows=30),
            "expr": Smoothing(kind="box", width=2.0, clip_rows=50),
        },
        class_bias=tuple(np.linspace(-1.5, 1.5, 8).tolist()),
        rescale={"v": Affine(scale=1.7, offset=0.2), "a": Affine(scale=-3.0, offset=0.5)},
        thresholds=tuple(np.linspace(0.1, 0.9, 12).tolist()),
    )


@pytest.fixture(scope="session")
def run_of(gappy: FeatureSet) -> Callable[..., Run]:
    """A run of a head whose weights are far from their start, or of a light one that was fitted."""

    def build(head: HeadConfig | LightConfig, calibration: Calibration | None = None, *, name: str = "made") -> Run:
        model: HeadModel | LightModel
        if isinstance(head, LightConfig):
            model = fit_light(gappy, head).model
        else:
            head = head.resolved()
            with torch.random.fork_rng():
                torch.manual_seed(len(name))
                model = HeadModel(head, gappy.shapes(head.encoders)).eval()
                model.prepare(gappy, gappy.frames.rows("train"))
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter += 0.3 * torch.randn_like(parameter)
        record = RunRecord(
            name=name,
            head=head,
            training=FitConfig(),
            judging=Judging(),
            shapes=gappy.shapes(head.encoders),
            encoders={encoder: gappy.fingerprints[encoder] for encoder in head.encoders},
            frames=gappy.frames.fingerprint,
            labels=gappy.labels_digest,
            epoch=1,
            selected_on="val",
            calibrated_on=None if calibration is None else calibration.fitted_on,
            parameters=model.n_parameters(),
            seconds=1.0,
            versions=versions(),
        )
        empty = pl.DataFrame()
        return Run(
            record=record,
            model=model,
            calibration=calibration,
            metrics={},
            predictions=empty,
            out_of_fold=None,
            curve=empty,
        )

    return build


@pytest.fixture(scope="session")
def through_onnxruntime(gappy: FeatureSet) -> Callable[[Path], Outputs]:
    """A file's outputs for all of val, one video at a time, put one after the other."""

    def run_file(path: Path) -> Outputs:
        session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        pieces = []
        for start, stop in gappy.frames.segments("val").tolist():
            given: Outputs = {"frame": gappy.frame_numbers[start:stop]}
            for each in session.get_inputs():
                if each.name != "frame":
                    table = gappy.embeddings[each.name][start:stop].float().numpy().copy()  # type: ignore[index]
                    table[~gappy.usable_rows[each.name][start:stop]] = np.nan
                    given[each.name] = table
            pieces.append(dict(zip(names, session.run(names, given), strict=True)))
        alike = ("action_unit_names",)
        return {
            name: pieces[0][name] if name in alike else np.concatenate([piece[name] for piece in pieces])
            for name in names
        }

    return run_file


@pytest.fixture(scope="session")
def evaluate() -> Callable[[Graph, Mapping[str, NDArray[np.generic]], list[str]], list[NDArray[np.generic]]]:
    """Run a graph that is no whole model: its inputs, and the names of what is wanted."""

    def run_graph(
        graph: Graph, inputs: Mapping[str, NDArray[np.generic]], wanted: list[str]
    ) -> list[NDArray[np.generic]]:
        made = helper.make_graph(
            graph.nodes,
            "part",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
                for name, array in inputs.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in wanted],
            initializer=graph.initializers,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(TREES_DOMAIN, TREES_OPSET)]
        model = helper.make_model(made, opset_imports=opsets, ir_version=9)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return list(session.run(wanted, dict(inputs)))

    return run_graph
