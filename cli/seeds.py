"""The seeds of an option."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds of an option such as ``"1,2,3"``.

    Raises
    ------
    ConfigError
        If one is not a number of at least 0.
    """
    from featurestore.errors import ConfigError
    from heads.tasks import parse_names

    names = parse_names(text)
    if not names or not all(name.isdecimal() for name in names):
        raise ConfigError(f"Expected seeds such as 1,2,3, got {text!r}. Give whole numbers, separated by commas.")
    return tuple(int(name) for name in names)
