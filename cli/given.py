"""Options that were given and would do nothing: said, not ignored."""

from collections.abc import Collection

import typer


def refuse_others(
    ctx: typer.Context,
    because: str,
    why: str,
    *,
    allowed: Collection[str] | None = None,
    refused: Collection[str] = (),
) -> None:
    """Refuse options that another option leaves without meaning.

    Parameters
    ----------
    ctx
        Of the command.
    because
        The option that takes their meaning, such as ``"--recipe"``.
    why
        In a clause.
    allowed
        Names of the parameters that may be given; None: all but the refused ones.
    refused
        Names of the parameters that may not.

    Raises
    ------
    ConfigError
        With every such option that was given.
    """
    from featurestore.errors import ConfigError

    # By its name: typer brings a click of its own in some versions.
    given = [name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    idle = [name for name in given if (name not in allowed if allowed is not None else name in refused)]
    if idle:
        told = ", ".join(f"--{name.strip('_').replace('_', '-')}" for name in sorted(idle))
        raise ConfigError(f"{told} would do nothing with {because}: {why}. Leave it out.")
