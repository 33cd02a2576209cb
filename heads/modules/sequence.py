"""The interface of what reads a window in order: `Temporal`.

Padding lies at a window's end only. It changes nothing in the rows before it, whatever stands in it (up to rounding),
and nothing becomes NaN, not even in a window that is padding alone. What comes out in padded rows means nothing.
"""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from featurestore.errors import ConfigError

State = tuple[Tensor, ...]
"""What a module that only looks back carries on, each (layers, B, H), detached."""


class Temporal(nn.Module):
    """Interface: fused embeddings of a window -> a state a row.

    Attributes
    ----------
    out_width
        Columns of what comes out.
    n_states
        Tensors in its `State`; 0 where it has none.
    """

    out_width: int
    n_states: int = 0

    def forward(self, window: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read a batch of windows.

        Parameters
        ----------
        window : shape (B, S, D), finite
        mask : shape (B, S), bool
            False is padding; None: there is none.

        Returns
        -------
        shape (B, S, out_width).
        """
        raise NotImplementedError

    def step(self, window: Tensor, state: State | None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """What `forward` does, from the state that the windows before left; and the state after.

        The state after padding is of no use, but finite: a segment is padded in its last window only.

        Raises
        ------
        ConfigError
            If the module does not only look back.
        """
        raise ConfigError(
            f"A state is carried from segment to segment by modules that only look back, but {type(self).__name__} "
            "reads whole windows. Choose temporal 'lstm' or 'gru', or leave out stateful."
        )


class NoTemporal(Temporal):
    """Each frame on its own.

    Parameters
    ----------
    width
        D; nothing depends on it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width

    def forward(self, window: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pass the window on."""
        return window


class Stacked(Temporal):
    """Temporal modules that read one after the other.

    Parameters
    ----------
    modules
        At least one; each reads what the one before it gives.
    """

    def __init__(self, modules: list[Temporal]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(modules)
        self.out_width = modules[-1].out_width
        self.n_states = sum(each.n_states for each in modules)

    def forward(self, window: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read a batch of windows."""
        for layer in self.layers:
            window = layer(window, mask)
        return window

    def step(self, window: Tensor, state: State | None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """The state is that of each module, one after the other."""
        after: State = ()
        for layer in cast("Iterable[Temporal]", self.layers):  # a ModuleList forgets what it holds
            before = None if state is None else state[len(after) : len(after) + layer.n_states]
            window, held = layer.step(window, before, mask)
            after = (*after, *held)
        return window, after
