"""Default heads against scikit-learn on the same embeddings, from 200 to 50,000 train rows.

Data sets are rendered here, and nobody in val is in train: faces as videos and as single images, embedded by the
principal components of their pixels; the faces' true state under noise, an embedding that is nearly perfect; one set
whose expressions and valence-arousal are unlabelled. `--encoder FILE` adds sets embedded by a real face encoder, an
ONNX file that reads (n, 3, 112, 112) in 0..1. `--sets` and `--seeds` measure a part.

Each head is what `abaw fit-heads` fits with nothing but the encoder given: its schedule, losses, folds and thresholds.
Beside it stand scikit-learn's LogisticRegression and SVC (action units, expressions) and Ridge (valence, arousal) with
their own defaults on the same standardised embeddings. A value is the mean over seeds; of several parts the lowest
counts.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from material import made_by
from PIL import Image
from report import Measure, Options, parse_options, report
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC, LinearSVR

from extractor.synth.dataset import SynthConfig, dataset_paths, write_dataset
from featurestore.challenge.annotations import build_frames, read_annotations
from featurestore.frames import FrameTable
from featurestore.labels import AU_COLUMNS
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit, score_rows
from heads.light.config import ESTIMATORS, LightConfig
from heads.modules.config import HeadConfig
from heads.runs.defaults import default_judging
from heads.runs.making import Made, make
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores
from heads.tasks import TASKS

FloatArray = npt.NDArray[np.float32]
Points = Mapping[str, float]

VAL_ROWS: Final = 1500
DIM: Final = 160
KERNEL_ROWS: Final = 10_000
"""Beyond, an SVC is left out: it takes hours."""
FRAME: Final = HeadConfig(encoder="faces", temporal="none", seq=1)
TIME: Final = HeadConfig(encoder="faces")
GRID: Final = [
    (replace(FRAME, hidden=hidden, hidden_dropout=dropout), FitConfig(learning_rate=rate))
    for hidden, dropout, rate in product(((), (128,), (512,), (512, 256)), (0.2, 0.5), (3e-4, 1e-3, 3e-3))
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Some train rows of the rendered pool, and how they are embedded.

    Attributes
    ----------
    embedding
        ``"pixels"``, ``"truth"``, ``"encoder"``.
    videos
        Whether they are whole videos of a few people; else a few single images of each of many.
    n_rows
        Of train.
    unlabelled
        Tasks without labels.
    """

    embedding: str
    videos: bool
    n_rows: int
    unlabelled: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as ``pixels, videos, 600``."""
        less = f", only {', '.join(t for t in TASKS if t not in self.unlabelled)}" if self.unlabelled else ""
        return f"{self.embedding}, {'videos' if self.videos else 'images'}, {self.n_rows:,}{less}"


SETS: Final = (
    DataSet(embedding="pixels", videos=False, n_rows=200),
    DataSet(embedding="pixels", videos=False, n_rows=600),
    DataSet(embedding="pixels", videos=True, n_rows=600),
    DataSet(embedding="pixels", videos=True, n_rows=5000),
    DataSet(embedding="truth", videos=False, n_rows=200),
    DataSet(embedding="truth", videos=False, n_rows=600),
    DataSet(embedding="truth", videos=True, n_rows=5000),
    DataSet(embedding="truth", videos=False, n_rows=600, unlabelled=("expr", "v", "a")),
    DataSet(embedding="encoder", videos=False, n_rows=600),
    DataSet(embedding="encoder", videos=True, n_rows=600),
    DataSet(embedding="encoder", videos=True, n_rows=5000),
    DataSet(embedding="truth", videos=True, n_rows=50_000),
    DataSet(embedding="pixels", videos=True, n_rows=50_000),
)

GRIDDED: Final = ("pixels, images, 600", "encoder, videos, 600", "pixels, videos, 5,000")
"""Sets that the grid is fitted on: 24 fits take up to a quarter of an hour."""

QUICK: Final = ("pixels, images, 600", "pixels, videos, 600")
"""Sets of `--quick`, over fewer faces."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Rendered rows, in the order of a frame table."""

    frames: FrameTable
    truth: FloatArray
    pixels: FloatArray
    encoded: FloatArray | None


def main() -> None:
    """Measure and report."""
    encoder, names, n_seeds = (_taken(name) for name in ("--encoder", "--sets", "--seeds"))
    options = parse_options(__doc__ or "")
    warnings.filterwarnings("ignore", module="sklearn")
    chosen = options.pick(
        full=[each for each in SETS if encoder or each.embedding != "encoder"],
        quick=[each for each in SETS if each.name in QUICK],
        smoke=[replace(next(each for each in SETS if each.unlabelled), n_rows=60)],
    )
    if names:
        chosen = [each for each in chosen if any(part.strip() in each.name for part in names.split(";"))]
    seeds = range(1, 1 + int(n_seeds or options.pick(full=3, quick=1, smoke=1)))
    measures = []
    for is_large, some in groupby(chosen, key=lambda each: each.n_rows > KERNEL_ROWS):
        with tempfile.TemporaryDirectory() as folder:
            # As many whichever sets are chosen, so that a part of the sets is measured on the same faces.
            full = (431, 200) if is_large else (420, 40)
            n_videos, per_video = options.pick(full=full, quick=(150, 40), smoke=(30, 6))
            pool = render(Path(folder), encoder, n_videos=n_videos, per_video=per_video)
            for each in some:
                features = embed(Path(folder), pool, each)
                for measure in measure_set(each, features, seeds, options):
                    measures.append(measure)
                    print(f"  {measure.measure}: {measure.value:.3f} ({measure.detail})", file=sys.stderr, flush=True)
    report(measures, options)


def measure_set(each: DataSet, features: FeatureSet, seeds: Sequence[int], options: Options) -> Iterator[Measure]:
    """All measures of one data set."""
    joint = tuple(task for task in TASKS if task not in each.unlabelled)
    X, is_train, is_val = _table(features)
    best = _merged(
        [fit_sklearn(features, X, is_train, is_val, joint, *kinds) for kinds in _references(int(is_train.sum()))]
    )
    trainings = [FitConfig(seed=seed, epochs=options.pick(full=None, quick=None, smoke=2)) for seed in seeds]
    frames = [fitted(features, replace(FRAME, joint=joint), training) for training in trainings]
    yield _against(f"{each.name}: frame head", [made.scores for made, _ in frames], best, "best of scikit-learn")
    yield Measure(
        measure=f"{each.name}: seconds of a frame head's fit",
        value=fmean(seconds for _, seconds in frames),
        bar=20.0 if each.n_rows <= 600 else 600.0,
        at_most=True,
    )
    timed = [fitted(features, replace(TIME, joint=joint), training) for training in trainings]
    of_frames, of_time = (fmean(_total(made.scores) for made, _ in some) for some in (frames, timed))
    yield Measure(
        measure=f"{each.name}: LSTM head less frame head",
        value=of_time - of_frames,
        bar=-0.01,
        detail=f"{of_time:.3f} / {of_frames:.3f}, {fmean(s for _, s in timed):.0f} s",
    )
    for estimator in ESTIMATORS:
        namesake = fit_sklearn(features, X, is_train, is_val, joint, *_NAMESAKES[estimator])
        config = LightConfig(estimator=estimator, encoder="faces", joint=joint)
        light = [fitted(features, replace(config, seed=training.seed), training)[0].scores for training in trainings]
        yield _against(f"{each.name}: light {estimator}", light, namesake, "its namesake")
    if options.pick(full=each.name in GRIDDED, quick=False, smoke=True):
        grid = GRID if options.size == "full" else GRID[:2]
        found = [
            _total(fit(features, replace(head, joint=joint), replace(training, epochs=trainings[0].epochs)).scores)
            for head, training in grid
        ]
        own = _total(frames[0][0].fitted.scores)
        yield Measure(
            measure=f"{each.name}: defaults as a share of the best of {len(grid)} settings",
            value=own / max(found),
            bar=0.97,
            detail=f"{own:.3f} / {max(found):.3f}",
        )


def fitted(features: FeatureSet, config: HeadConfig | LightConfig, training: FitConfig) -> tuple[Made, float]:
    """What `abaw fit-heads` fits, and the seconds it takes."""
    started = time.perf_counter()
    judging, _ = default_judging(features, config)
    return make(features, config, training, judging), time.perf_counter() - started


def fit_sklearn(
    features: FeatureSet,
    X: FloatArray,
    is_train: npt.NDArray[np.bool_],
    is_val: npt.NDArray[np.bool_],
    joint: Sequence[str],
    classifier: Callable[[], Any],
    regressor: Callable[[], Any],
) -> Points:
    """Scores of scikit-learn's estimators with their own defaults, one a task or action unit."""
    rows = np.flatnonzero(is_val)
    arrays: dict[str, npt.NDArray[np.float64]] = {}
    for task in joint:
        target, valid = features.targets.of(task)
        if task == "au":
            units = np.zeros((len(rows), len(AU_COLUMNS)))
            for unit in range(len(AU_COLUMNS)):
                some = is_train & valid[:, unit]
                labels = target[some, unit].astype(int)
                constant = len(np.unique(labels)) < 2
                units[:, unit] = labels[0] if constant else classifier().fit(X[some], labels).predict(X[rows])
            arrays[task] = units
        elif task == "expr":
            some = is_train & valid
            arrays[task] = np.eye(8)[classifier().fit(X[some], target[some]).predict(X[rows]).astype(int)]
        else:
            some = is_train & valid
            arrays[task] = np.clip(regressor().fit(X[some], target[some]).predict(X[rows]), -1, 1)
    return score_rows(features, Predictions(rows=rows).with_arrays(arrays)).points()


def render(folder: Path, encoder: str | None, *, n_videos: int, per_video: int) -> Pool:
    """Rendered faces; three fifths of the videos are train's."""
    data = folder / "rendered"
    write_dataset(data, SynthConfig(videos=n_videos, seed=5, frames_per_video=per_video, workers=2))
    paths = dataset_paths(data)
    frames = build_frames(read_annotations(paths["train"], "train"), read_annotations(paths["val"], "val"), None)
    there = [path for path in frames.data["path"].to_list() if (paths["images"] / path).is_file()]
    frames = FrameTable(frames.data.filter(pl.col("path").is_in(there)))
    truth = np.load(paths["truth"])
    images = (np.asarray(Image.open(paths["images"] / path).convert("RGB")) for path in frames.data["path"])
    shrunk, encoded = [], []
    reader = _OnnxEncoder(encoder) if encoder else None
    for image in images:
        grey = image.mean(axis=2)[8:104, 8:104].reshape(24, 4, 24, 4).mean(axis=(1, 3))
        shrunk.append(grey.ravel().astype(np.float32))
        if reader is not None:
            encoded.append(reader.read(image))
    return Pool(
        frames=frames,
        truth=np.stack([truth[path] for path in frames.data["path"]]).astype(np.float32),
        pixels=np.stack(shrunk),
        encoded=np.stack(encoded) if encoded else None,
    )


class _OnnxEncoder:
    def __init__(self, file: str) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(file)
        self._name = self._session.get_inputs()[0].name

    def read(self, image: npt.NDArray[np.uint8]) -> FloatArray:
        batch = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
        return np.asarray(self._session.run(None, {self._name: batch})[0], dtype=np.float32).ravel()


def embed(folder: Path, pool: Pool, each: DataSet) -> FeatureSet:
    """A store with the data set's rows and their embedding ``faces``."""
    rng = np.random.default_rng(each.n_rows)
    data = pool.frames.data.with_row_index("row")
    train, val = (data.filter(pl.col("split") == split) for split in ("train", "val"))
    people = rng.permutation(train["video"].unique(maintain_order=True).to_numpy())
    if each.videos:
        ranks = {name: rank for rank, name in enumerate(people)}
        train = train.sort(pl.col("video").replace_strict(ranks), "frame").head(each.n_rows)
    else:
        shuffled = train.sample(fraction=1.0, shuffle=True, seed=each.n_rows)
        turn = pl.int_range(pl.len()).over("video")  # one image of everybody, then a second one ...
        train = shuffled.with_columns(turn=turn).sort("turn", maintain_order=True).head(each.n_rows).drop("turn")
    val = val.gather_every(max(1, len(val) // VAL_ROWS))
    picked = pl.concat([train, val]).sort("video", "frame")
    columns = [c for task in each.unlabelled for c in TASKS[task].columns]
    rows = picked["row"].to_numpy()
    nothing = [pl.lit(None).cast(picked.schema[name]).alias(name) for name in columns]
    frames = FrameTable(picked.drop("row").with_columns(nothing))
    learned = rows[picked["split"].to_numpy() == "train"]
    vectors = {"pixels": _components, "truth": _noisy, "encoder": _encoded}[each.embedding](pool, learned)[rows]
    path = folder / each.name.replace(", ", "-").replace(" ", "-")
    store = FeatureStore.create(path, frames)
    with store.writer("faces", made_by(each.name), row_shape=(vectors.shape[1],)) as writer:
        for task in writer.pending():
            writer.append(task.start, vectors[task.start : task.stop].astype(np.float16))
    return FeatureSet.load(store, ["faces"])


def _components(pool: Pool, learned: npt.NDArray[np.int64]) -> FloatArray:
    """Principal components of the pixels of train rows, at most `DIM`."""
    some = pool.pixels[learned[:3000]]
    _, _, axes = np.linalg.svd(some - some.mean(axis=0), full_matrices=False)
    return np.asarray((pool.pixels - some.mean(axis=0)) @ axes[: min(DIM, len(some) - 1)].T, dtype=np.float32)


def _noisy(pool: Pool, learned: npt.NDArray[np.int64]) -> FloatArray:
    """The true state, standardised, spread over `DIM` columns under noise."""
    rng = np.random.default_rng(3)
    state = (pool.truth - pool.truth.mean(axis=0)) / (pool.truth.std(axis=0) + 1e-6)
    mixed = state @ rng.normal(size=(state.shape[1], DIM)) / np.sqrt(DIM)
    return np.asarray(mixed + rng.normal(scale=0.5, size=mixed.shape), dtype=np.float32)


def _encoded(pool: Pool, learned: npt.NDArray[np.int64]) -> FloatArray:
    if pool.encoded is None:
        raise ValueError("Sets of a real encoder need --encoder FILE.")
    return pool.encoded


def _table(features: FeatureSet) -> tuple[FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Standardised embeddings of all rows, and which are train's and val's."""
    split = features.frames.data["split"].to_numpy()
    store = FeatureStore.open(Path(features.source))
    X = store.embedding("faces").load().astype(np.float32)
    return StandardScaler().fit(X[split == "train"]).transform(X), split == "train", split == "val"


def _references(n_rows: int) -> list[tuple[Callable[[], Any], Callable[[], Any]]]:
    linear: tuple[Callable[[], Any], Callable[[], Any]] = (_logistic, Ridge)
    return [linear] if n_rows > KERNEL_ROWS else [linear, (SVC, Ridge)]


def _logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)


def _lightgbm(name: str) -> Any:
    import lightgbm  # after `heads`: it loads the OpenMP that torch uses, which reads then how threads wait

    return getattr(lightgbm, name)(verbose=-1)


_NAMESAKES: Final[Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]]] = {
    "lightgbm": (lambda: _lightgbm("LGBMClassifier"), lambda: _lightgbm("LGBMRegressor")),
    "logistic": (_logistic, Ridge),
    "ridge": (RidgeClassifier, Ridge),
    "svm": (LinearSVC, LinearSVR),
    "linear": (_logistic, Ridge),
    "mlp": (lambda: MLPClassifier(random_state=0), lambda: MLPRegressor(random_state=0)),
}


def _merged(some: Sequence[Points]) -> Points:
    return {part: max(each[part] for each in some) for part in some[0]}


def _against(what: str, scores: Sequence[Scores], other: Points, whose: str) -> Measure:
    """The lowest difference over the parts, of means over seeds."""
    parts = [part for part in other if part != "P"]
    ours = {part: fmean(each.points()[part] for each in scores) for part in parts}
    worst = min(parts, key=lambda part: ours[part] - other[part])
    detail = ", ".join(f"{part.partition('_')[2]} {ours[part]:.3f}/{other[part]:.3f}" for part in parts)
    return Measure(measure=f"{what} less {whose}", value=ours[worst] - other[worst], bar=-0.01, detail=detail)


def _total(scores: Scores) -> float:
    """P, or the mean of the parts that are there."""
    points = scores.points()
    return points["P"] if "P" in points else fmean(points.values())


def _taken(name: str) -> str | None:
    """An option of this benchmark alone, taken off the command line."""
    if name not in sys.argv:
        return None
    place = sys.argv.index(name)
    value = sys.argv[place + 1]
    del sys.argv[place : place + 2]
    return value


if __name__ == "__main__":
    main()
