"""How an encoder is run: what a calibration chooses, the store remembers, and a resumed run goes on with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from extractor.pixels.preprocess import resizing_on
from extractor.precision import Precision, choose_precision
from featurestore.embedding import Embedding
from featurestore.provenance import JsonScalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """The arithmetic of an encoder's forward pass.

    Attributes
    ----------
    precision
        Number format of weights and activations.
    batch
        Frames a forward pass, a power of two.
    channels_last
        Maps with their channels last in memory, which some convolutions prefer.
    compiled
        Through torch.compile.
    """

    precision: Precision
    batch: int
    channels_last: bool = False
    compiled: bool = False

    def facts(self, device: torch.device) -> Mapping[str, JsonScalar]:
        """What the store notes, beside precision and batch that it keeps anyway."""
        return {
            "device": device_name(device),
            "resized_as": resizing_on(device),
            "channels_last": self.channels_last,
            "compiled": self.compiled,
        }

    def describe(self) -> str:
        """In words, for people."""
        words = [self.precision, f"batches of {self.batch}"]
        words += [
            word
            for word, chosen in (
                ("channels last", self.channels_last),
                ("compiled", self.compiled),
            )
            if chosen
        ]
        return ", ".join(words)


def recorded_execution(embedding: Embedding, asked: str, device: torch.device) -> Execution:
    """How an encoder's embeddings were begun, which is how they go on, so that their bits do not change.

    Parameters
    ----------
    embedding
        What is in the store.
    asked
        A precision; ``auto`` takes the recorded one, and any other is refused later if it is another.
    device
        Of this run.
    """
    provenance = embedding.provenance
    facts = provenance.execution
    return Execution(
        precision=choose_precision(provenance.precision if asked == "auto" else asked, device),
        batch=embedding.batch_rows,
        channels_last=facts.get("channels_last") is True,
        compiled=facts.get("compiled") is True,
    )


def is_resized_otherwise(embedding: Embedding, device: torch.device) -> bool:
    """Whether the rows that are there were resized in another arithmetic than the device's."""
    return embedding.provenance.execution.get("resized_as") != resizing_on(device)


def device_name(device: torch.device) -> str:
    """The device as people call it: a GPU's product name, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
