"""What an extraction is asked to do, and what it did."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.errors import ConfigError, unknown_name
from featurestore.writer import WHOLE, Share


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """Options of an extraction; those that cannot be are refused (ConfigError, UnknownNameError).

    Attributes
    ----------
    device
        Where to compute; ``auto`` chooses.
    precision
        Number format of the forward pass. ``auto`` calibrates: bfloat16 or float16 where the device, CPUs included,
        computes in it natively, if it is faster and its embeddings are close to float32's. An encoder that is partly
        extracted keeps the precision it began with.
    batch
        Frames a forward pass, a power of two; None chooses. An encoder that is partly extracted keeps the batch it
        began with.
    n_workers
        Threads that decode; None chooses.
    stored
        Element type of the stored embeddings, float16 or float32.
    stop_on_error
        Raise at the first frame that cannot be read, rather than list and mask it.
    retry_unreadable
        Compute the chunks again in which frames were masked whose files are there now.
    reuse_duplicates
        Compute images of the same bytes once a batch.
    share
        This process's share of the chunks; run each share in a process of its own, on any machine, without a lock.
    """

    device: str = "auto"
    precision: str = "auto"
    batch: int | None = None
    n_workers: int | None = None
    stored: str = "float16"
    stop_on_error: bool = False
    retry_unreadable: bool = False
    reuse_duplicates: bool = False
    share: Share = WHOLE

    def __post_init__(self) -> None:
        if self.batch is not None and (self.batch < 1 or self.batch & (self.batch - 1)):
            raise ConfigError(
                f"The batch must be a power of two, so that chunks hold whole batches, but is {self.batch}."
            )
        if self.stored not in ("float16", "float32"):
            raise unknown_name("stored type", self.stored, ("float16", "float32"))
        if not 1 <= self.share.number <= self.share.of:
            raise ConfigError(
                f"A share is one of 1/N to N/N, not {self.share.number}/{self.share.of}. Give one such as --share 1/4."
            )
        if self.retry_unreadable and self.share != WHOLE:
            raise ConfigError(
                "Frames are tried again by one process, or each would take back what another has just computed. "
                "Run --retry-unreadable without --share."
            )
        if self.retry_unreadable and self.stop_on_error:
            raise ConfigError(
                "Frames are tried again by taking back their chunks, and stopping at the first that still cannot be "
                "read would leave these out. Run --retry-unreadable without --on-error stop."
            )


@dataclass(slots=True, kw_only=True)
class ExtractReport:
    """What an extraction did.

    Attributes
    ----------
    computed
        Encoder to rows computed now.
    reused
        Encoder to rows that were in the store already.
    left
        Encoder to rows that are other workers' share, and not in the store.
    failures
        Row number to reason, for every frame that is masked because it could not be read, now or in an earlier run.
    n_frames
        Frames decoded now.
    seconds
        Wall time of the run.
    busy_s
        Of these, the time in which the device worked: resizing, and the models.
    stages
        Stage -> seconds spent in it: ``read`` and ``decode`` in the threads that do it, ``write`` in that which writes,
        and of the thread that runs the models ``wait`` for decoded frames, ``upload``, ``forward`` and ``hand over``.
    notes
        What went otherwise than planned, such as memory that did not do for a whole batch.
    """

    computed: dict[str, int] = field(default_factory=dict)
    reused: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    n_frames: int = 0
    seconds: float = 0.0
    busy_s: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def frames_per_second(self) -> float:
        """Frames decoded and encoded a second; 0 if there was nothing to do."""
        return self.n_frames / self.seconds if self.n_frames else 0.0

    @property
    def device_busy(self) -> float:
        """Share of the time in which the device worked, in [0, 1]."""
        return self.busy_s / self.seconds if self.seconds else 0.0
