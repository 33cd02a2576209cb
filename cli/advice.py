"""What to run for rows that a store has not yet: extraction computes them of encoders that the workspace has."""

import re
from collections.abc import Iterable, Iterator

from featurestore.store import FeatureStore

from .workspace import Workspace


def extractable(opened: Workspace, names: Iterable[str]) -> frozenset[str]:
    """Those encoders of a store whose names the workspace has an encoder folder for.

    Parameters
    ----------
    opened
        The workspace.
    names
        Encoders of the store, such as ``au`` or ``au@2``, which is made by the folder of ``au``.
    """
    folders = opened.config.encoders.glob("[!.]*/encoder.json")  # torch would have to be imported for its constant
    known = {path.parent.name for path in folders} | set(opened.config.encoder_folders)
    return frozenset(name for name in names if name in known or re.sub(r"@[0-9]+$", "", name) in known)


def is_import(store: FeatureStore, name: str) -> bool:
    """Whether an encoder's embeddings came from a file that does not say what made them."""
    return store.embedding(name).provenance.architecture == "imported"


def next_for_incomplete(opened: Workspace, store: FeatureStore) -> Iterator[str]:
    """A line for every kind of encoder that lacks rows: what gives it those of new frames."""
    incomplete = [name for name in store.names() if store.rows_done(name) < store.n_frames]
    computed = {name for name in extractable(opened, incomplete) if not is_import(store, name)}
    if computed:
        names = ",".join(sorted(computed))
        yield f"Next: abaw extract --encoder {names}, which computes the rows that are not there yet."
    for name in incomplete:
        if name in computed:
            continue
        if is_import(store, name):
            # Another file is another provenance, which never goes under the same name.
            again = f"abaw store import FILE --encoder {store.free_version(name)}"
            yield f"{name} came from a file: {again} takes one that has the new frames, too."
        else:
            yield (
                f"{name} is no encoder of this workspace: extract it by the path of its folder, or take its new rows "
                f"from where it came: abaw store import FILE --encoder {name}"
            )
