"""Fits, extraction and fine-tuning beside busy processes, and the cost of `heads.waiting` on a quiet machine.

OpenMP's threads wait for each other by spinning, and read from the environment how long, once, when torch is loaded. So
each setting has a process of its own: one with abaw's setting, one with OpenMP's default. A process prepares a kind of
work at its first request and does it once, uncounted; imports and the opening of stores are not part of the times.

In each round the work runs with both settings, in alternating order, and then with abaw's beside as many busy processes
as there are cores. A fair share of the cores is half of them there, so twice the quiet time is the best to expect. Run
this on a machine without other work: any makes the quiet times longer, and so the second ratio smaller than it is.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, Self

from material import made_by, random_frames, random_rows, write_images
from report import Measure, Options, Pair, parse_options, report, wall_s

from extractor.encoders.encoder import Encoder
from extractor.encoders.spec import EncoderSpec
from extractor.extraction.config import ExtractConfig
from extractor.extraction.extract import extract
from extractor.training.finetune import FinetuneConfig, finetune
from extractor.training.workbench import Workbench
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.light.config import LightConfig
from heads.light.fit import fit_light
from heads.modules.config import HeadConfig
from heads.waiting import USERS_OWN

OPENMP_DEFAULT: Final = {"GOMP_SPINCOUNT": "300000"}
"""What GCC's OpenMP takes where nothing is set, as OMP_DISPLAY_ENV=VERBOSE prints it."""
VIDEO_ROWS: Final = 100
ENCODER: Final = "mae"
BUSY: Final = "import os\nwhile os.getppid() == {parent}: pass"
"""Busy until it is ended, or its parent is."""

Work = Callable[[], float]
"""Does something once; the seconds that it took."""


def main() -> None:
    """Measure and report; as ``--work FOLDER SIZE``: be one of the processes that are measured."""
    if sys.argv[1:2] == ["--work"]:
        work_as_asked(Path(sys.argv[2]), sys.argv[3])
        return
    options = parse_options(__doc__ or "")
    measures = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_images(Path(folder) / "images", options.pick(full=128, quick=128, smoke=16))
        ours = stack.enter_context(Worker(Path(folder) / "ours", options, {}))
        other = stack.enter_context(Worker(Path(folder) / "other", options, OPENMP_DEFAULT))
        for name in WORKS:
            measures += measure(name, ours, other, options)
    report(measures, options)


def measure(name: str, ours: "Worker", other: "Worker", options: Options) -> list[Measure]:
    """One kind of work: what the setting costs on a quiet machine, and what busy processes then cost."""
    rounds = options.pick(full=9, quick=9, smoke=1)
    ours_s: list[float] = []
    other_s: list[float] = []
    shared_s: list[float] = []
    other_shared_s: list[float] = []
    began = time.perf_counter()
    for number in range(rounds):
        round_began = time.perf_counter()
        for worker, seconds in ((ours, ours_s), (other, other_s))[:: 1 if number % 2 else -1]:
            seconds.append(worker.seconds(name))
        with busy_processes():
            shared_s.append(ours.seconds(name))
            if options.size == "full" and number < 3:
                other_shared_s.append(other.seconds(name))
        now = time.perf_counter()
        if now - began + (now - round_began) > options.budget_s:
            break
    quiet, shared = pair(ours_s, other_s), pair(ours_s, shared_s)
    spinning = f"; spinning by default {statistics.median(other_shared_s):.2f} s" if other_shared_s else ""
    return [
        Measure(
            measure=f"time, {name}, our waiting : OpenMP's default, quiet",
            value=1 / quiet.ratio,
            bar=1.03,
            at_most=True,
            detail=quiet.detail,
        ),
        Measure(
            measure=f"time, {name}, beside {n_busy()} busy processes : quiet",
            value=shared.ratio,
            bar=2.2,
            at_most=True,
            detail=f"{shared.other_s:.2f} s / {shared.ours_s:.2f} s{spinning}",
        ),
    ]


def pair(ours_s: Sequence[float], other_s: Sequence[float]) -> Pair:
    """The rounds' timings, and the median of their ratios."""
    ratios = [other / ours for ours, other in zip(ours_s, other_s, strict=True)]
    return Pair(ours_s=statistics.median(ours_s), other_s=statistics.median(other_s), ratio=statistics.median(ratios))


def n_busy() -> int:
    """As many busy processes as cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def busy_processes() -> Iterator[None]:
    """Keep every core busy."""
    command = [sys.executable, "-S", "-c", BUSY.format(parent=os.getpid())]
    started: list[subprocess.Popen[bytes]] = []
    try:
        started += [subprocess.Popen(command) for _ in range(n_busy())]
        time.sleep(0.2)  # until they run
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


class Worker:
    """A process that does work when asked, under one setting of OpenMP.

    Parameters
    ----------
    folder
        Of its stores, beside the images.
    options
        Their size says how much work.
    setting
        Environment variables; those that say how threads wait are taken from nowhere else.
    """

    def __init__(self, folder: Path, options: Options, setting: Mapping[str, str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(folder), options.size],
            env=environment | dict(setting),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def seconds(self, name: str) -> float:
        """Seconds that the work takes, done once."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("The process has no pipes.")
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process that should do {name!r} ended with {self._process.wait()}.")
        return float(line)


def work_as_asked(folder: Path, size: str) -> None:
    """Read names of works; print the seconds of each, done once after a first time."""
    folder.mkdir()
    options = Options(size="full" if size == "full" else "quick" if size == "quick" else "smoke", json_file=None)
    prepared: dict[str, Work] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in prepared:
            prepared = {name: WORKS[name](folder, options)}  # the former one's memory is free
            prepared[name]()
        print(prepared[name](), flush=True)


def fit_small_frames(folder: Path, options: Options) -> Work:
    """The default head of single frames on a few videos."""
    features = random_features(folder / "small", n_rows=600, dim=256)
    epochs = options.pick(full=20, quick=20, smoke=1)
    return partial(wall_s, partial(fit, features, HeadConfig(temporal="none", seq=1), FitConfig(epochs=epochs)))


def fit_frames(folder: Path, options: Options) -> Work:
    """The default head of single frames on a few thousand rows."""
    features = random_features(folder / "frames", n_rows=options.pick(full=5000, quick=5000, smoke=300), dim=768)
    epochs = options.pick(full=3, quick=1, smoke=1)
    return partial(wall_s, partial(fit, features, HeadConfig(temporal="none", seq=1), FitConfig(epochs=epochs)))


def fit_lstm(folder: Path, options: Options) -> Work:
    """The default LSTM, whose products use all cores."""
    n_rows = options.pick(full=5000, quick=1500, smoke=300)
    features = random_features(folder / "lstm", n_rows=n_rows, dim=options.pick(full=768, quick=768, smoke=32))
    epochs = options.pick(full=3, quick=1, smoke=1)
    return partial(wall_s, partial(fit, features, HeadConfig(), FitConfig(epochs=epochs, batch_frames=1024)))


def fit_logistic(folder: Path, options: Options) -> Work:
    """scikit-learn's logistic regressions and ridges, each with a penalty that is given."""
    n_rows = options.pick(full=5000, quick=2000, smoke=300)
    features = random_features(folder / "logistic", n_rows=n_rows, dim=options.pick(full=256, quick=128, smoke=16))
    return partial(wall_s, partial(fit_light, features, LightConfig(estimator="logistic", C=0.01)))


def extract_images(folder: Path, options: Options) -> Work:
    """JPEGs to embeddings of a ViT-Ti at its own size."""
    n_frames = options.pick(full=128, quick=32, smoke=16)
    frames = random_frames({"video": ("train", n_frames)}, n_images=n_frames)
    store = FeatureStore.create(folder / "extract", frames)
    encoder, images = Encoder(spec_of(options)).eval(), ImageFolder(folder.parent / "images")
    config = ExtractConfig(device="cpu", precision="float32", batch=options.pick(full=32, quick=16, smoke=8))

    def work() -> float:
        seconds = extract(store, {ENCODER: encoder}, images, config).seconds
        if not store.embedding(ENCODER).is_complete():
            raise RuntimeError("The extraction is not complete: nothing to compare.")
        store.remove(ENCODER)
        return seconds

    return work


def finetune_encoder(folder: Path, options: Options) -> Work:
    """Steps of fine-tuning a ViT-Ti after the first, without the checkpoint, whose time is the disk's."""
    n_steps, batch = options.pick(full=(6, 32), quick=(4, 8), smoke=(3, 4))
    frames = random_frames({"a": ("train", n_steps * batch), "b": ("val", batch)}, n_images=16)
    encoder, images = Encoder(spec_of(options)), ImageFolder(folder.parent / "images")
    config = FinetuneConfig(tasks=("expr",), epochs=1, batch=batch, precision="float32")
    numbers = count()

    def work() -> float:
        workbench = Workbench(folder / "encoders", f"tuned{next(numbers)}")
        ends: list[float] = []
        finetune(
            frames,
            images,
            encoder,
            workbench,
            config,
            parent_name=ENCODER,
            device="cpu",
            on_step=lambda *_: ends.append(time.perf_counter()),
        )
        return ends[-1] - ends[0]

    return work


WORKS: Final[dict[str, Callable[[Path, Options], Work]]] = {
    "fit of frames, 600 x 256": fit_small_frames,
    "fit of frames, 5,000 x 768": fit_frames,
    "fit of an LSTM, 768 wide": fit_lstm,
    "fit of logistic regressions": fit_logistic,
    "extraction, ViT-Ti": extract_images,
    "fine-tuning, ViT-Ti": finetune_encoder,
}


def random_features(folder: Path, *, n_rows: int, dim: int) -> FeatureSet:
    """Random embeddings in a store of their own, loaded: so many rows to learn from, and some to judge."""
    videos = {f"{number:04d}": ("train", VIDEO_ROWS) for number in range(n_rows // VIDEO_ROWS)}
    videos |= {"val": ("val", VIDEO_ROWS)}
    frames = random_frames(videos)
    store = FeatureStore.create(folder, frames)
    rows = random_rows(len(frames), dim)
    with store.writer(ENCODER, made_by(ENCODER), row_shape=(dim,)) as writer:
        for task in writer.pending():
            writer.append(task.start, rows[task.start : task.stop])
    return FeatureSet.load(store, (ENCODER,), device="cpu")


def spec_of(options: Options) -> EncoderSpec:
    """A ViT-Ti at its own size; in smoke runs the smallest of models."""
    if options.size != "smoke":
        return EncoderSpec(architecture="vit_tiny_patch16_224", input_px=224)
    return EncoderSpec(
        architecture="vit_tiny_patch16_224",
        input_px=32,
        arguments={"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 1},
    )


if __name__ == "__main__":
    main()
