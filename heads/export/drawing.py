"""Made-up videos that a graph and its run are compared on, at the scale of the embeddings that the run was fitted on.

A head that normalises its inputs says 0 or 1 of whatever lies far from what it has seen, right or wrong, and a tree
sends all of it down the same branch. So columns are drawn about the means that the head itself holds: those that it
normalises by, or, of trees, those of the thresholds that they split at. What tells no scale is drawn from N(0, 1).
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from featurestore.frames import FRAME_SCHEMA, FrameTable
from heads.arrays import Float64Array
from heads.features.featureset import FeatureSet
from heads.features.loaded import LoadedEmbeddings
from heads.light.model import LightModel
from heads.light.trees import Trees
from heads.modules.config import HeadConfig
from heads.modules.inputs import Inputs
from heads.runs.run import Run

from .subject import Subject

_MISSING_ROW: Final = 2  # of the longer video: one frame without an embedding


class Scale(NamedTuple):
    """Of an encoder's columns, each shape (D,)."""

    mean: Tensor
    scale: Tensor


def made_up(subject: Subject) -> tuple[FeatureSet, dict[str, Tensor]]:
    """Random embeddings of a longer and a shorter video, with gaps between frames and a frame that is missing."""
    heads = (run.head for run in subject.members.values())
    seq = max(head.seq if isinstance(head, HeadConfig) else 1 for head in heads)
    drawn = np.random.default_rng(0)
    tables = []
    for video, n in (("longer", max(8, 2 * seq + 3)), ("shorter", max(1, seq // 2))):
        numbers = np.cumsum(drawn.integers(1, 5, n))
        columns: dict[str, object] = {name: [None] * n for name in FRAME_SCHEMA}
        columns |= {"video": [video] * n, "frame": numbers, "split": ["test"] * n}
        columns["path"] = [f"{video}/{number:05d}.jpg" for number in numbers]
        tables.append(pl.DataFrame(columns, schema=FRAME_SCHEMA))
    frames = FrameTable(pl.concat(tables))
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (mean, scale) in scales(subject).items():
        tensors[name] = mean + scale * torch.randn(len(frames), *subject.shapes[name], generator=generator)
    usable = {name: np.ones(len(frames), dtype=np.bool_) for name in tensors}
    missing = list(tensors)[-1]
    tensors[missing][_MISSING_ROW], usable[missing][_MISSING_ROW] = 0, False
    loaded = LoadedEmbeddings(tensors)
    features = FeatureSet(frames, loaded, usable, dict(subject.encoders), torch.device("cpu"), "made up")
    return features, tensors


def scales(subject: Subject) -> dict[str, Scale]:
    """Encoder -> what its columns are drawn by; of several members' the first that tells it."""
    found = {}
    for name, shape in subject.shapes.items():
        mean, scale = torch.zeros(shape[-1]), torch.ones(shape[-1])
        told = (each for run in subject.members.values() for each in _told(run) if each[0] == name)
        first = next(told, None)
        if first is not None:
            columns, told_scale = first[1:]
            mean[columns], scale[columns] = told_scale
        found[name] = Scale(mean, scale)
    return found


def _told(run: Run) -> Iterator[tuple[str, slice, Scale]]:
    """What a member tells of its encoders: which columns it reads, and their scale."""
    model = run.model
    columns = {name: slice(*run.head.columns.get(name, (0, None))) for name in run.head.encoders}
    if not isinstance(model, LightModel):
        for module in model.modules():
            if isinstance(module, Inputs) and module.normalise:
                for number, name in enumerate(module.names):
                    mean, std = (module.get_buffer(f"{each}_{number}") for each in ("mean", "std"))
                    yield name, columns[name], Scale(mean, std)
        return
    pair = _light_scale(model)
    if pair is None:
        return
    start = 0
    for name in model.config.encoders:
        stop = start + len(range(run.record.shapes[name][-1])[columns[name]])
        yield name, columns[name], Scale(*(torch.from_numpy(each[start:stop]).float() for each in pair))
        start = stop


def _light_scale(model: LightModel) -> tuple[Float64Array, Float64Array] | None:
    design, n_read = model.design, model.design.n_read
    if design.mean.any() or (design.scale != 1).any():
        return design.mean[:n_read], design.scale[:n_read]
    splits: list[list[float]] = [[] for _ in range(n_read)]
    for numbers in model.numbers.values():
        for column, threshold in _splits(numbers) if isinstance(numbers, Trees) else ():
            if column < n_read:
                splits[column].append(threshold)
    known = np.array([threshold for each in splits for threshold in each])
    if not len(known):
        return None
    # A column that is split once, or never, is as wide as all of them together.
    spread = float(known.std()) or float(abs(known[0])) or 1.0
    mean = np.array([np.mean(each) if each else known.mean() for each in splits])
    return mean, np.array([float(np.std(each)) or spread if each else spread for each in splits])


def _splits(trees: Trees) -> Iterator[tuple[int, float]]:
    """Column and threshold of every split, from LightGBM's texts."""
    for text in trees.texts:
        columns: list[int] = []
        for line in text.splitlines():
            name, _, values = line.partition("=")
            if name == "split_feature":
                columns = [int(each) for each in values.split()]
            elif name == "threshold":
                yield from zip(columns, map(float, values.split()), strict=True)
