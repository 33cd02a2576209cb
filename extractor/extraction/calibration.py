"""Choosing how an encoder runs on the device at hand: precision, batch, memory format, compilation.

A few forward passes of random images decide. What was found is kept in the user's cache (one small JSON file), by
device, versions, encoder and question: so a second extraction on the same machine computes the same bits, though
timings are never the same twice. A short extraction is not worth measuring for, and takes the defaults.

A low precision is taken where the device computes in it natively, where it is faster, and where its embeddings stay
within a cosine of .999 of float32's.
"""

import gc
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

import torch
import xxhash
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import Conv2d, functional

from extractor.encoders.encoder import Encoder, on_device
from extractor.precision import DTYPES, Precision
from extractor.versions import versions
from featurestore.atomic import replace_file

from .execution import Execution, device_name
from .mapper import is_out_of_memory

WORTH_MEASURING_ROWS: Final = 1024
"""Fewer frames than these take the defaults."""

_SHARE: Final = 0.02  # of the run that measuring may take
_CPU_BATCHES: Final = (8, 16, 32, 64)
_GPU_BATCHES: Final = (64, 128, 256, 512)
_BETTER_BY: Final = 1.03  # what is more complicated must be worth it
_CLOSE_ENOUGH: Final = 0.999  # cosine to float32
_COMPILING_TAKES_S: Final = 60.0  # to begin with; what it takes is measured
_COMPILING_GAINS: Final = 0.2  # at best, of the run


def default_execution(device: torch.device, precision: Precision | None, batch: int | None) -> Execution:
    """What is taken unmeasured; what is not None is fixed."""
    low = native_low_precision(device)
    return Execution(precision=precision or low or "float32", batch=batch or (128 if device.type == "cuda" else 32))


def native_low_precision(device: torch.device) -> Precision | None:
    """bfloat16 or float16 where the device computes in it by itself, else None."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return "bfloat16" if any(getattr(torch.cpu, flag, bool)() for flag in flags) else None


def calibrate(
    encoder: Encoder,
    device: torch.device,
    *,
    n_rows: int,
    precision: Precision | None = None,
    batch: int | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Execution:
    """Choose how to run an encoder that is new to a store.

    Parameters
    ----------
    encoder
        Anywhere and in float32; it is left there.
    device
        Where it is to run.
    n_rows
        Frames to compute: how much measuring is worth.
    precision, batch
        What the user has fixed; None for what is free.
    on_note
        Told what was chosen, and why, if anything was measured.
    """
    default = default_execution(device, precision, batch)
    if n_rows < WORTH_MEASURING_ROWS:
        return default
    file = _cache_file(encoder, device, n_rows, precision, batch)
    known = _read(file)
    if known is not None:
        return known
    trial = _Trial(encoder, device, n_rows)
    chosen, seconds = trial.choose(default, precision, batch)
    speed = f"{1 / seconds:,.0f} frames/s when tried on {device_name(device)}"
    on_note(f"{encoder.spec.described()}: {chosen.describe()}, {speed}")
    if trial.was_cut_off:
        return chosen  # a longer run may look for longer
    with suppress(OSError):  # a cache that cannot be written costs the next run its seconds, no more
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as part:
            part.write_text(json.dumps(asdict(chosen)) + "\n")
    return chosen


class _Trial:
    """Forward passes of one encoder under several executions."""

    def __init__(self, encoder: Encoder, device: torch.device, n_rows: int) -> None:
        self._encoder = encoder
        self._device = device
        self._n_rows = n_rows
        self._spent_s = 0.0
        self._made: dict[Precision, Encoder] = {}
        self.was_cut_off = False

    def choose(self, default: Execution, precision: Precision | None, batch: int | None) -> tuple[Execution, float]:
        """The best execution found within the time that it is worth, and its seconds a frame."""
        best, best_s = self._beginning(default, fixed=precision is not None)
        for change in self._changes(best, precision, batch):
            if self._spent_s > _SHARE * self._n_rows * best_s:
                self.was_cut_off = True
                break
            candidate = change(best)
            seconds = self._seconds_per_frame(candidate)
            if seconds * _BETTER_BY < best_s and self._is_close(candidate, best):
                best, best_s = candidate, seconds
        return self._perhaps_compiled(best, best_s)

    def _beginning(self, default: Execution, *, fixed: bool) -> tuple[Execution, float]:
        """The default, or what of it memory and exactness leave: a low precision must stay close to float32."""
        execution, seconds = default, self._seconds_per_frame(default)
        while seconds == float("inf") and execution.batch > 1:
            execution = replace(execution, batch=execution.batch // 2)
            seconds = self._seconds_per_frame(execution)
        if not fixed and execution.precision != "float32" and seconds != float("inf"):
            exact = replace(execution, precision="float32")
            if not self._is_close(execution, exact):
                return exact, self._seconds_per_frame(exact)
        return execution, seconds

    def _changes(
        self, first: Execution, precision: Precision | None, batch: int | None
    ) -> list[Callable[[Execution], Execution]]:
        """What to try on the best so far, from what changes most to what changes least."""
        changes: list[Callable[[Execution], Execution]] = []
        if precision is None and first.precision != "float32":
            changes.append(lambda best: replace(best, precision="float32"))
        modules = self._encoder.modules()
        if any(isinstance(each, Conv2d) and each.kernel_size != each.stride for each in modules):
            changes.append(lambda best: replace(best, channels_last=True))
        if batch is None:
            sizes = _GPU_BATCHES if self._device.type == "cuda" else _CPU_BATCHES
            changes += [partial(_with_batch, batch=size) for size in sizes if size != first.batch]
        return changes

    def _perhaps_compiled(self, best: Execution, best_s: float) -> tuple[Execution, float]:
        """Compiled, if the run is so long that what compiling gains at best is more than what it takes."""
        if self._n_rows * best_s * _COMPILING_GAINS < _COMPILING_TAKES_S:
            return best, best_s
        candidate = replace(best, compiled=True)
        started = perf_counter()
        seconds = self._seconds_per_frame(candidate)
        took_s = perf_counter() - started
        if self._n_rows * seconds + took_s < self._n_rows * best_s / _BETTER_BY and self._is_close(candidate, best):
            return candidate, seconds
        return best, best_s

    def _seconds_per_frame(self, execution: Execution) -> float:
        """The faster of two passes after one to warm up; infinite if memory runs out, or it cannot be compiled."""
        started = perf_counter()
        images = self._images(execution)
        times = []
        try:
            for _ in range(3):
                _synchronise(self._device)
                at = perf_counter()
                self._run(execution, images)
                _synchronise(self._device)
                times.append(perf_counter() - at)
                if self._device.type == "cpu" and not execution.compiled and times[0] > 1:
                    break  # long enough to be true
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) and not execution.compiled:
                raise
            gc.collect()
            return float("inf")
        finally:
            self._spent_s += perf_counter() - started
        return min(times[1:] or times) / execution.batch

    def _is_close(self, execution: Execution, other: Execution) -> bool:
        if execution.precision == other.precision and not execution.compiled:
            return True
        few = min(execution.batch, other.batch, 8)
        ours, theirs = (self._run(each, self._images(each))[0][:few].float().flatten(1) for each in (execution, other))
        return functional.cosine_similarity(ours, theirs).min().item() > _CLOSE_ENOUGH

    def _images(self, execution: Execution) -> Tensor:
        side = self._encoder.spec.input_px
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(execution.batch, 3, side, side, generator=generator).to(self._device)
        images = images.to(DTYPES[execution.precision])
        return images.contiguous(memory_format=torch.channels_last) if execution.channels_last else images

    def _run(self, execution: Execution, images: Tensor) -> list[Tensor]:
        encoder = self._made.get(execution.precision)
        if encoder is None:
            self._made.clear()  # one at a time: they may be large
            encoder = on_device(self._encoder, self._device, DTYPES[execution.precision])
            self._made[execution.precision] = encoder
        forward = torch.compile(encoder.read, dynamic=False) if execution.compiled else encoder.read
        with torch.inference_mode():
            return forward(images, [self._encoder.readout])


def _with_batch(execution: Execution, *, batch: int) -> Execution:
    return replace(execution, batch=batch)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cache_file(
    encoder: Encoder, device: torch.device, n_rows: int, precision: Precision | None, batch: int | None
) -> Path:
    """One file a question; runs of one order of magnitude ask the same."""
    asked = {
        "rows": len(str(n_rows)),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "architecture": encoder.spec.described(),
        "input_px": encoder.spec.input_px,
        "readout": encoder.readout.describe(),
        "precision": precision,
        "batch": batch,
    }
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "abaw" / "calibration" / f"{xxhash.xxh3_64_hexdigest(json.dumps(asked).encode())}.json"


def _read(file: Path) -> Execution | None:
    try:
        return TypeAdapter(Execution).validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
