"""Which encoder a name means."""

from collections.abc import Mapping
from pathlib import Path

from featurestore.errors import AbawError, ConfigError, unknown_name

from .folder import SPEC_FILE


def find_encoder(name: str, folder: Path, table: Mapping[str, Path] | None = None) -> Path:
    """The encoder folder that `name` means.

    Parameters
    ----------
    name
        An encoder of the workspace, a name in `table`, or a path to an encoder folder.
    folder
        The workspace's encoders, one folder each.
    table
        Further names and their folders, from `abaw.toml`.

    Raises
    ------
    UnknownNameError
        If there is no such encoder; it suggests the nearest name.
    ConfigError
        If both the workspace and `table` have one of that name.
    """
    own = {path.parent.name: path.parent for path in folder.glob(f"[!.]*/{SPEC_FILE}")}
    elsewhere = dict(table or {})
    if name in own and name in elsewhere:
        raise ConfigError(
            f"Encoder {name!r} is in two places: {own[name]} and, in abaw.toml, {elsewhere[name]}. Rename one of them."
        )
    known = own | elsewhere
    if name in known:
        return known[name]
    if (Path(name) / SPEC_FILE).is_file():
        return Path(name)
    error: AbawError = unknown_name("encoder", name, known)
    error.args = (f"{error} Make one with `abaw pretrain` or `abaw finetune`, or name an encoder folder.",)
    raise error
