"""Weights files as people have them, read to plain tensors without running anything that they carry.

A torch file is a pickle, and a pickle is a program. It is read with torch's own reader that runs nothing but the
building of tensors (``weights_only``). Training scripts leave their options beside the weights: an argparse.Namespace
(facebook's MAE), paths, numpy's scalars. Those few are let through by name, and not even they are built: an inert
object stands in for each, since only the tensors are wanted. Whatever else a file asks for is refused by name.
"""

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from featurestore.errors import MissingFileError, StoreError
from featurestore.provenance import file_digest

# Where training scripts put the weights, the most telling first; of a teacher and its student the teacher is meant.
# Any of these may lie within another: checkpoint.model.module.
_ENTRIES: Final = (
    "model", "state_dict", "model_state_dict", "state_dict_backbone", "teacher", "net", "network", "backbone",
    "encoder", "weights", "module", "checkpoint", "model_ema", "ema",
)  # fmt: skip
# Entries that hold tensors by name too, and never weights.
_NO_WEIGHTS: Final = re.compile(
    r"\w*optimi[sz]ers?|optim|\w*sched\w*|\w*scaler|amp|criterion|\w*loss(?:es)?|config|args", re.IGNORECASE
)
_MAX_DEPTH: Final = 4
_INERT_NAMES: Final = (
    "argparse.Namespace",
    *(f"{module}.{system}Path" for module in ("pathlib", "pathlib._local") for system in ("Posix", "Windows")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64", "Int32", "Bool")),
)
# Names that every torch file uses; only for telling what else one asks for: torch itself decides what may be built.
_HARMLESS: Final = re.compile(
    r"torch\._utils\._rebuild\w+|torch\._tensor\._rebuild\w+|torch\.(?:\w*Storage|Size|Tensor|device|u?int\d+|b?float\d+)"
    r"|torch\.storage\.\w+|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|collections\.(?:OrderedDict|Counter)|_codecs\.encode|" + "|".join(map(re.escape, _INERT_NAMES))
)
_LEGACY_PICKLES: Final = 4  # magic number, protocol, system, then the object itself
_HEAD_BYTES: Final = 512
# What torch's reader and pickletools raise for bytes that were cut or changed: lengths and offsets may say anything.
_DAMAGED: Final = (
    pickle.UnpicklingError, struct.error, RuntimeError, EOFError, ValueError, OSError, LookupError, AttributeError,
    AssertionError, TypeError, MemoryError, ArithmeticError, zipfile.BadZipFile,
)  # fmt: skip


class _Inert:
    """Stands in for an object that is not wanted: takes everything, keeps and does nothing."""

    def __new__(cls, *_: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """What a weights file holds."""

    path: Path
    kind: Literal["safetensors", "torch"]
    digest: str  # xxh3-128 of the file's bytes
    entry: str | None  # the key under which the weights lay, "a.b" where nested; None: the file is the weights
    others: tuple[str, ...]  # further keys that hold weights and were not taken
    state: Mapping[str, Tensor]  # on the CPU, possibly mapped from the file
    not_tensors: tuple[str, ...]  # names beside the tensors that hold something else


def read_weights(path: Path) -> WeightFile:
    """Read a safetensors or torch file.

    Raises
    ------
    MissingFileError
        If there is no such file.
    StoreError
        If it is damaged, of another kind, carries code, or holds no weights.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no weights file {path}. Check the path.")
    kind = _kind(path)
    if kind == "safetensors":
        found: Mapping[str, object] = _read_safetensors(path)
    else:
        found = _read_torch(path, is_zip=kind == "torch zip")
    entry, others, state = _weights_within(path, found)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return WeightFile(
        path=path,
        kind="safetensors" if kind == "safetensors" else "torch",
        digest=file_digest(path),
        entry=entry,
        others=others,
        state=tensors,
        not_tensors=tuple(name for name in state if name not in tensors),
    )


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model, by its name or its first bytes: an IR version, then a field of a ModelProto."""
    if path.suffix.lower() == ".onnx":
        return True
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) < 3 or head[8:9] == b"{":  # a safetensors file, whose length may begin with any bytes
        return False
    return head[0] == 0x08 and 0 < head[1] < 0x20 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def _kind(path: Path) -> Literal["safetensors", "torch zip", "torch legacy"]:
    """What the first bytes say; a suffix may say anything.

    Raises
    ------
    StoreError
        If they are nothing that holds weights.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return "torch zip"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "torch legacy"
    raise StoreError(
        f"A weights file is a safetensors or a torch file, but {path} ({path.stat().st_size:,} bytes) {_guess(head)}"
    )


def _guess(head: bytes) -> str:
    start = head.lstrip().lower()
    if not head:
        return "is empty. Copy or download it again."
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer: a note where the file lies. Fetch the file itself with `git lfs pull`."
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, most likely an error page that was saved in its place. Download the file again."
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file, as Keras writes them. Convert it to safetensors first."
    if head[257:262] == b"ustar":
        return "is a tar archive. Unpack it and name the weights file within."
    if all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in head):
        return f"is text and begins {head[:40].decode(errors='replace')!r}. Name the weights themselves."
    return f"begins with the bytes {head[:8].hex(' ')}. Save the model's state_dict with torch.save or safetensors."


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise StoreError(
            f"{path} is a damaged or cut-off safetensors file: {error}. Copy or download it again."
        ) from error


def _read_torch(path: Path, *, is_zip: bool) -> Mapping[str, object]:
    if is_zip:
        _refuse_other_archives(path)
    inert: list[Any] = [(_Inert, name) for name in _INERT_NAMES]  # torch types them as callables alone
    try:
        with torch.serialization.safe_globals(inert), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols; what cannot be read is told below
            content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
    except _DAMAGED as error:
        wanted, is_whole = _foreign_names(path, is_zip=is_zip)
        if wanted:
            raise StoreError(
                f"{path} is a pickle that carries code, and weights alone were expected: reading it would run or build "
                f"{', '.join(wanted)}. Nothing was run. Where you trust it, load it with the program that wrote it, "
                "save model.state_dict() with torch.save, and give that file."
            ) from error
        # torch's own text ends in the advice to read the file without this guard; its reason stands behind a mark.
        reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())
        reason = re.split(r" Check the documentation| was not an allowed", reason)[0][:160]
        reason = reason.rstrip(". ") or type(error).__name__
        if "Unsupported operand" in reason and is_whole:
            raise StoreError(
                f"{path} is pickled in a way that torch's safe reader does not know ({reason}). Load it with the "
                "program that wrote it and save it again with torch.save, by itself in pickle protocol 2."
            ) from error
        raise StoreError(f"{path} is a damaged or cut-off torch file: {reason}. Copy or download it again.") from error
    if isinstance(content, Tensor) or not isinstance(content, Mapping):
        raise StoreError(
            f"{path} holds {type(content).__name__}, and a state_dict (name -> tensor) was expected. "
            "Save the model's state_dict with torch.save."
        )
    return content


def _refuse_other_archives(path: Path) -> None:
    """A torch file is a zip archive, and so are others."""
    try:
        names = zipfile.ZipFile(path).namelist()
    except _DAMAGED as error:
        raise StoreError(f"{path} is a damaged or cut-off torch file: {error}. Copy or download it again.") from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise StoreError(
            f"{path} is a TorchScript archive: a program with its weights, and weights alone were expected. Load it "
            "with torch.jit.load where you trust it, save its state_dict() with torch.save, and give that file."
        )
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        raise StoreError(
            f"{path} is a zip archive without torch's data.pkl; it holds {', '.join(names[:3]) or 'nothing'}. "
            "Unpack it and name the weights file within."
        )


def _foreign_names(path: Path, *, is_zip: bool) -> tuple[list[str], bool]:
    """What the pickle of a torch file asks for by name beyond tensors, and whether it could be read to its end.

    It is read as bytes; nothing is run.
    """
    names: set[str] = set()
    is_whole = True
    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                names.update(_global_names(io.BytesIO(archive.read(member))))
        else:
            with path.open("rb") as file:
                for _ in range(_LEGACY_PICKLES):
                    names.update(_global_names(file))
    except (*_DAMAGED, StopIteration):
        is_whole = False  # what was found before a cut still counts
    return sorted(name for name in names if not _HARMLESS.fullmatch(name)), is_whole


def _global_names(file: IO[bytes]) -> Iterator[str]:
    """The `module.name` of every global that one pickle fetches."""
    memo: dict[int, str] = {}
    texts: list[str] = [""]  # what lies on the stack, as far as it is text; memorised texts may be fetched again
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = texts[-1]
        elif operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(f"{argument}")] = texts[-1]
        elif operation.name in ("GET", "BINGET", "LONG_BINGET"):
            texts.append(memo.get(int(f"{argument}"), ""))
        elif isinstance(argument, str):
            texts.append(argument)


def _weights_within(
    path: Path, content: Mapping[str, object]
) -> tuple[str | None, tuple[str, ...], Mapping[str, object]]:
    """The dictionary of tensors in what a file holds: its key, further such keys, itself."""
    inner = _states_within(content)
    ranked = sorted(inner, key=_rank)
    is_told = bool(ranked) and any(word in _ENTRIES for word in ranked[0].split("."))
    # Beside its state_dict a script may keep its best score and the epoch, tensors too.
    if _is_state(content) and not (is_told and _n_tensors(inner[ranked[0]]) >= _n_tensors(content)):
        return None, tuple(ranked), content
    if not ranked or (len(ranked) > 1 and (not is_told or _rank(ranked[0]) == _rank(ranked[1]))):
        what = (
            f"several sets of weights: {', '.join(ranked)}" if ranked else f"no tensors by name, but {_listed(content)}"
        )
        raise StoreError(
            f"{path} holds {what}. Save one state_dict (name -> tensor) with torch.save and give that file."
        )
    return ranked[0], tuple(ranked[1:]), inner[ranked[0]]


def _states_within(content: Mapping[str, object], path: str = "", depth: int = 1) -> dict[str, Mapping[str, object]]:
    """The dictionaries of tensors below what a file holds, by their keys: "a.b" where nested."""
    found: dict[str, Mapping[str, object]] = {}
    for key, value in content.items():
        if not isinstance(value, Mapping) or _NO_WEIGHTS.fullmatch(f"{key}"):
            continue
        nested = _states_within(value, f"{path}{key}.", depth + 1) if depth < _MAX_DEPTH else {}
        if _is_state(value) and not any(_n_tensors(each) >= _n_tensors(value) for each in nested.values()):
            found[f"{path}{key}"] = value
        found |= nested
    return found


def _rank(path: str) -> list[int]:
    """The smaller, the more telling are the words of a key."""
    return [_ENTRIES.index(word) if word in _ENTRIES else len(_ENTRIES) for word in path.split(".")]


def _is_state(content: Mapping[str, object]) -> bool:
    """Whether a dictionary is mostly tensors by name."""
    return 2 * _n_tensors(content) > len(content) and all(isinstance(name, str) for name in content)


def _n_tensors(content: Mapping[str, object]) -> int:
    return sum(isinstance(value, Tensor) for value in content.values())


def _listed(content: Mapping[str, object]) -> str:
    entries = [f"{name!r} ({type(value).__name__})" for name, value in list(content.items())[:8]]
    return ", ".join(entries) or "nothing"
