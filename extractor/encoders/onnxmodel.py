"""An ONNX file as a backbone, run by onnxruntime (the extra `abaw[onnx]`).

The file is kept byte for byte: it is the encoder's weights, its digest is theirs, and it goes with a pickle or a copy
of the backbone, while onnxruntime's sessions are made anew where they are used. What it takes (layout, side, batch,
number format) and puts out is read from its graph, and tried on two images of noise, together and one by one:
exporters leave a batch open that the graph does not leave open, or normalise over the batch what was to be normalised
over what the training saw. Such a model gets its images one at a time.

On a CPU the images of a batch are shared out among torch's number of threads, a few at a time, each run by one thread:
with two threads MobileFaceNet is 1.7 times as fast in this way as with onnxruntime's own threads, and the numbers do
not depend on how many threads there are.

A map (n, channels, rows, columns) larger than 1 x 1 is refused: how it is pooled is the exporter's to say.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from featurestore.errors import ConfigError, StoreError, unknown_name

if TYPE_CHECKING:
    import onnxruntime as ort

_FLOATS: Final[Mapping[str, type[np.floating]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_CODES: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_ERRORS_ONLY: Final = 3  # some exporters' files bring hundreds of warnings that nobody can act upon
_PART_IMAGES: Final = 8  # on a CPU; with 4 to 32 the rate is nearly the same
_N_TRIED: Final = 2  # images of the first run: a batch that is not really open shows itself
# Of the largest number; another batch is summed up in another order, and a mean over the batch differs by far more.
_ALIKE: Final[Mapping[type[np.floating], float]] = {np.float32: 1e-3, np.float16: 2e-2, np.float64: 1e-3}

Layout = Literal["NCHW", "NHWC"]
Size = int | None  # None where the graph leaves it open


class OnnxBackbone(nn.Module):
    """A model that is known by what it puts out only.

    Parameters
    ----------
    model
        The file, or its bytes.
    output
        Name of the output that is the embedding; None for the only one that can be it.
    input_px
        Side of the images; needed where the file leaves it open, and checked where it does not.

    Attributes
    ----------
    digest
        xxh3-128 of the file, 32 hex digits.
    input_px, layout, batch
        What it is fed with; ``batch`` is None if any number of images is taken at once.
    output, outputs
        Name of the output, and of all that the model has.
    row_shape
        Of one image: (dim,), or (n_tokens, dim).

    Raises
    ------
    ConfigError
        If onnxruntime is not installed, there is no such output, several could be meant, or the model does not take
        square RGB images.
    StoreError
        If the bytes are no ONNX model, or one that onnxruntime cannot run.
    """

    num_features: int | None  # as timm's models name it; None if it puts out tokens

    def __init__(self, model: Path | bytes, *, output: str | None = None, input_px: int | None = None) -> None:
        super().__init__()
        self._where = str(model) if isinstance(model, Path) else "The model"
        self.content = model.read_bytes() if isinstance(model, Path) else model
        self.digest = xxhash.xxh3_128_hexdigest(self.content)
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._threads: tuple[int, ThreadPoolExecutor] | None = None
        session = self._session(torch.device("cpu"))
        self._input_name, self._dtype, sizes = self._read_input(session)
        self.layout, self.batch, self.input_px = self._read_sizes(sizes, input_px)
        self.outputs = tuple(str(each.name) for each in session.get_outputs())
        self.output = self._choose_output(session, output)
        self.row_shape = self._try()
        self.num_features = self.row_shape[0] if len(self.row_shape) == 1 else None

    def extra_repr(self) -> str:
        """What stands between the brackets when it is printed."""
        return f"{self._where}, {self.layout}, {self.input_px} px, {self.output} -> {self.row_shape}"

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: Tensor) -> Tensor:
        """Run the model.

        Parameters
        ----------
        images : shape (n, 3, input_px, input_px), of any float type, on any device
            A CUDA device is used if onnxruntime was built for it; else the CPU.

        Returns
        -------
        shape (n, *row_shape), float32, on the images' device
        """
        session = self._session(images.device)
        fed = images.detach().to("cpu", torch.float32)  # numpy knows no bfloat16
        if self.layout == "NHWC":
            fed = fed.permute(0, 2, 3, 1)
        values = np.ascontiguousarray(fed.numpy(), dtype=self._dtype)
        on_cpu = session.get_providers() == ["CPUExecutionProvider"]
        size = self.batch or (_PART_IMAGES if on_cpu else max(len(values), 1))
        parts = [values[start : start + size] for start in range(0, len(values), size)]
        rows = np.empty((len(values), *self.row_shape), np.float32)

        def compute(part: int) -> None:
            start, images_ = part * size, parts[part]
            rows[start : start + len(images_)] = self._run(session, self._filled_up(images_))[: len(images_)]

        n_threads = min(torch.get_num_threads(), len(parts)) if on_cpu else 1
        for _ in map(compute, range(len(parts))) if n_threads < 2 else self._pool().map(compute, range(len(parts))):
            pass  # an error of a thread is raised here
        return torch.from_numpy(rows).to(images.device)

    def _filled_up(self, values: np.ndarray) -> np.ndarray:
        """With black images up to the number that the graph takes."""
        if self.batch is None or len(values) == self.batch:
            return values
        black = np.zeros((self.batch - len(values), *values.shape[1:]), values.dtype)
        return np.concatenate([values, black])

    def _pool(self) -> ThreadPoolExecutor:
        n_threads = torch.get_num_threads()
        if self._threads is None or self._threads[0] != n_threads:
            self._threads = n_threads, ThreadPoolExecutor(n_threads, thread_name_prefix="onnx")
        return self._threads[1]

    def _run(self, session: "ort.InferenceSession", values: np.ndarray) -> np.ndarray:
        try:
            (rows,) = session.run([self.output], {self._input_name: values})
        except Exception as error:  # onnxruntime's own have no common root
            raise StoreError(
                f"{self._where} cannot be run on {values.shape[0]} images of {self.input_px} px: {_told(error)}. "
                "Export it again, with an open batch or a batch of 1."
            ) from error
        if rows.ndim == 4 and rows.shape[2:] == (1, 1):
            rows = rows[:, :, 0, 0]
        return np.asarray(rows, dtype=np.float32)

    def _try(self) -> tuple[int, ...]:
        """Shape of one row; corrects ``batch`` where the graph only seems to take any number of images."""
        session = self._session(torch.device("cpu"))
        n_images = self.batch or _N_TRIED
        noise = self._noise(n_images)
        try:
            rows = self._run(session, noise)
        except StoreError:
            if self.batch:
                raise
            self.batch = 1  # a shape in the graph's middle that was fixed at export
            rows = self._run(session, noise[:1])
        if self.batch is None and len(rows) != n_images:
            self.batch = 1
            rows = self._run(session, noise[:1])
        if len(rows) != (self.batch or n_images) or rows.ndim not in (2, 3):
            raise ConfigError(
                f"Output {self.output!r} of {self._where} has the shape {rows.shape} for {self.batch or n_images} "
                "images; an embedding is (images, dim) or (images, tokens, dim). Name another output, or export the "
                f"model with its pooling. Outputs: {_listed(session.get_outputs())}."
            )
        self.batch = self.batch or self._true_batch(session, noise, rows)
        return rows.shape[1:]

    def _true_batch(self, session: "ort.InferenceSession", images: np.ndarray, rows: np.ndarray) -> Size:
        """None if images one by one give the rows that they gave together."""
        try:
            alone = np.concatenate([self._run(session, image[None]) for image in images])
        except StoreError:
            return len(images)  # fixed at export, in the graph's middle, to just as many
        if alone.shape != rows.shape:
            return len(images)
        largest = float(np.abs(rows).max(initial=0.0))
        return None if np.abs(alone - rows).max(initial=0.0) <= _ALIKE[self._dtype] * largest else 1

    def _noise(self, n_images: int) -> np.ndarray:
        sides = (self.input_px, self.input_px)
        shape = (n_images, 3, *sides) if self.layout == "NCHW" else (n_images, *sides, 3)
        return np.random.default_rng(0).normal(size=shape).astype(self._dtype)

    def _read_input(self, session: "ort.InferenceSession") -> tuple[str, type[np.floating], list[Size]]:
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _FLOATS:
            raise ConfigError(
                f"{self._where} is not a network of images: an encoder has one input, (images, 3, side, side) of "
                f"floats, but this takes {_listed(inputs)}. Export the part that sees the image."
            )
        (taken,) = inputs
        return taken.name, _FLOATS[taken.type], [size if isinstance(size, int) else None for size in taken.shape]

    def _read_sizes(self, sizes: Sequence[Size], input_px: int | None) -> tuple[Layout, Size, int]:
        batch, *rest = sizes
        layout: Layout = "NHWC" if rest[0] != 3 and rest[2] == 3 else "NCHW"
        channels, height, width = rest if layout == "NCHW" else (rest[2], rest[0], rest[1])
        where = f"{self._where} takes {' x '.join('any' if size is None else str(size) for size in sizes)}"
        if channels not in (3, None):
            raise ConfigError(f"{where}, which is no batch of RGB images: 3 channels come second, or last.")
        if None not in (height, width) and height != width:
            raise ConfigError(f"{where}: images of {height} x {width}. Frames are fed as squares; export it for one.")
        side = height or width or input_px
        if side is None:
            raise ConfigError(f"{where}: it leaves the size of the images open. Give one, such as --size 112.")
        if input_px not in (side, None):
            raise ConfigError(f"{where}: images of {side} px, not {input_px}. Leave the size out.")
        return layout, batch, side

    def _choose_output(self, session: "ort.InferenceSession", name: str | None) -> str:
        outputs = session.get_outputs()
        if name is not None:
            if name not in {output.name for output in outputs}:
                raise unknown_name(f"output of {self._where}", name, [output.name for output in outputs])
            return name
        floats = [each for each in outputs if each.type in _FLOATS]
        candidates = [each for each in floats if _may_be_embedding(each.shape)]
        # Where there are maps alone, trying one tells what is wrong with it.
        candidates = candidates or [each for each in floats if len(each.shape) == 4][:1]
        if len(candidates) == 1:
            return str(candidates[0].name)
        if candidates:
            raise ConfigError(
                f"{self._where} has {len(candidates)} outputs that could be the embedding: {_listed(candidates)}. "
                f"Say which, such as --output {candidates[0].name} (of `abaw encoders add`)."
            )
        raise ConfigError(
            f"{self._where} has no output that could be an embedding, (images, dim) of floats: {_listed(outputs)}. "
            "Export the layer before its classifier."
        )

    def _session(self, device: torch.device) -> "ort.InferenceSession":
        """The session of a device."""
        key = str(device)
        if key not in self._sessions:
            self._sessions[key] = _open_session(self.content, device, where=self._where)
        return self._sessions[key]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_sessions": {}, "_threads": None}  # these belong to a process


def _may_be_embedding(shape: Sequence[int | str | None]) -> bool:
    """Whether it is a vector, tokens, or a map that may be of one pixel."""
    return len(shape) in (2, 3) or (len(shape) == 4 and not any(isinstance(n, int) and n > 1 for n in shape[2:]))


def _open_session(content: bytes, device: torch.device, *, where: str) -> "ort.InferenceSession":
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ConfigError(
            f"{where} is run by onnxruntime, which is not installed. Install it: pip install 'abaw[onnx]'."
        ) from error
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # its callers are many
    providers: list[str | tuple[str, dict[str, int]]] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
        index = torch.cuda.current_device() if device.index is None else device.index
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    try:
        return ort.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime's own have no common root
        raise StoreError(
            f"{where} cannot be opened as an ONNX model ({len(content):,} bytes): {_told(error)}. "
            f"{_advice(content, str(error))}"
        ) from error


def _advice(content: bytes, reason: str) -> str:
    if content.startswith(b"version https://git-lfs"):
        return "It is a pointer of git-lfs, not the file: run `git lfs pull` where it came from."
    if content[:200].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "It is a web page: download the file itself."
    if "external" in reason.lower() or "model_path" in reason.lower():
        return "Its weights are in further files: save it as one file (onnx.save without external data)."
    return "Copy or export it again."


def _told(error: Exception) -> str:
    """An error of onnxruntime without its codes, in a line."""
    return _CODES.sub("", " ".join(str(error).split()))[:300].rstrip(". ")


def _listed(arguments: "Sequence[ort.NodeArg]") -> str:
    return ", ".join(f"{each.name} {each.type[7:-1]} {tuple(each.shape)}" for each in arguments) or "nothing"
