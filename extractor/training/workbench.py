"""Where an encoder is made: one folder an encoder, and beside it, hidden, the state of a run that is under way.

    encoders/mae/encoder.json, model.safetensors     whole, or not there
    encoders/.mae.training/checkpoint.pt             gone once the encoder is there

The encoder is written into the hidden folder and appears under its name by one rename.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import xxhash
from pydantic import BaseModel, TypeAdapter

from extractor.encoders.encoder import Encoder
from extractor.encoders.folder import save_encoder
from extractor.encoders.spec import EncoderSpec
from extractor.encoders.specfile import SPEC_FILE, check_name, read_spec, weights_file
from featurestore.errors import FileExistsAlreadyError


@dataclass(frozen=True, slots=True)
class Workbench:
    """The place of one encoder among the workspace's encoders.

    Parameters
    ----------
    encoders
        The folder of all encoders.
    name
        The encoder's name.
    """

    encoders: Path
    name: str

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def folder(self) -> Path:
        """Where the finished encoder stands."""
        return self.encoders / self.name

    @property
    def checkpoint_file(self) -> Path:
        """Where the state of the run under way is kept."""
        return self.encoders / f".{self.name}.training" / "checkpoint.pt"

    def finished(self, key: str, *, force: bool) -> EncoderSpec | None:
        """The spec of the encoder if a run with this key made it; None if there is still work to do.

        Parameters
        ----------
        key
            Digest of the run's options and inputs.
        force
            Whatever stands here is to be replaced, once its successor is whole.

        Raises
        ------
        FileExistsAlreadyError
            If the name is taken by an encoder that was made otherwise.
        """
        if force or not self._is_whole():
            return None
        spec = read_spec(self.folder)
        if spec.origin.get("key") != key:
            raise FileExistsAlreadyError(
                f"Encoder {self.name!r} is there already ({self.folder}), made with other options, frames or labels. "
                "Give another --name, or --force to replace it."
            )
        return spec

    def _is_whole(self) -> bool:
        if not (self.folder / SPEC_FILE).is_file():
            return False
        return (self.folder / weights_file(read_spec(self.folder))).is_file()

    def finish(self, encoder: Encoder, spec: EncoderSpec) -> None:
        """Put the finished encoder in its place and remove the checkpoint."""
        hidden = self.checkpoint_file.parent
        made, replaced = hidden / "made", hidden / "replaced"
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
        save_encoder(made, encoder, spec)
        if self.folder.exists():
            self.folder.rename(replaced)
        made.rename(self.folder)
        shutil.rmtree(hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedEncoder:
    """What a training run hands back.

    Attributes
    ----------
    folder, spec
        Where the encoder stands, and what its `encoder.json` says.
    was_there
        True if the same run had finished before, and nothing was computed.
    unreadable
        Row number to reason, for frames that could not be read and were left out.
    """

    folder: Path
    spec: EncoderSpec
    was_there: bool
    unreadable: Mapping[int, str] = field(default_factory=dict)

    @property
    def history(self) -> list[dict[str, float]]:
        """Figures of each epoch: ``loss``, and ``val`` where there is a validation score."""
        return TypeAdapter(list[dict[str, float]]).validate_python(self.spec.origin["history"])


def run_key(options: BaseModel, *inputs: str) -> str:
    """Digest of a run's options and of what it starts from."""
    text = "\n".join([type(options).__name__, options.model_dump_json(), *inputs])
    return xxhash.xxh3_128_hexdigest(text.encode())
