"""Where a run goes: its name, and what may be replaced there."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from featurestore.errors import ConfigError
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig

from .folder import check_replaceable
from .judging import Judging
from .record import CONFIG_FILE, fit_configuration, read_record

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")


def prepare_folder(
    runs: Path,
    name: str,
    head: HeadConfig | LightConfig,
    training: FitConfig,
    features: FeatureSet,
    *,
    judging: Judging | None = None,
    force: bool = False,
) -> Path:
    """The folder of a run that is to be fitted; what `Run.save` would refuse is refused before the fit.

    Raises
    ------
    ConfigError
        If the name cannot be a folder's in `runs`.
    FileExistsAlreadyError
        As `Run.save` does.
    """
    check_run_name(name)
    configuration = fit_configuration(
        head,
        training,
        judging or Judging(),
        features.fingerprints,
        frames=features.frames.fingerprint,
        labels=features.labels_digest,
    )
    check_place(configuration, runs / name, force=force)
    return runs / name


def check_run_name(name: str) -> None:
    """Refuse a name that cannot be a folder's.

    Raises
    ------
    ConfigError
        If it is none.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a run: use letters, digits and . _ @ + -, a letter or digit first. Choose another."
        )


def check_place(configuration: Mapping[str, JsonValue], directory: Path, *, force: bool) -> None:
    """Refuse a folder that holds another run, or something that is none; with `force` only the latter.

    Raises
    ------
    FileExistsAlreadyError
        If it does.
    """

    def is_same() -> bool:
        return read_record(directory).configuration() == configuration

    check_replaceable("run", CONFIG_FILE, directory, is_same=is_same, force=force)
