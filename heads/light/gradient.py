"""Fitting layers by gradient descent: AdamW over shuffled rows, stopped by a held-out fold of train.

The rows lie on the device as a whole and a batch is one gather. What a loss is, its caller says; here it is only asked
for some rows' loss.
"""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from featurestore.errors import PrecisionError
from heads.arrays import Float64Array, IntArray
from heads.fitting.schedule import rows_per_step
from heads.fitting.seeding import seeded

from .config import LightConfig
from .holdout import hold_out
from .layers import Layers

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (B, n_outputs), numbers of their rows (B,)) -> their loss, a scalar."""

LEAST_STEPS: Final = 1000
"""Minimum number of steps of the refit on all rows, for units and classes: F1 keeps increasing after the loss on a few
dozen held-out rows has begun to increase."""
LEAST_VALUE_STEPS: Final = 500
"""The same minimum for values: on a held-out fold of two videos the first epoch can be the best by chance."""
_BLOCK_ROWS: Final = 65536


@dataclass(frozen=True, slots=True, eq=False)
class Descended:
    """Layers, and the epoch that was best on the held-out fold, or the last one."""

    layers: Layers
    epoch: int


def fit_layers(
    X: Tensor,
    rows: IntArray,
    loss: Loss,
    start: Float64Array,
    groups: IntArray,
    config: LightConfig,
    *,
    least_steps: int = 1,
) -> Descended:
    """Fit layers.

    Parameters
    ----------
    X : shape (n_all, n_columns), float32
        On the device that it is fitted on.
    rows : shape (n,), int64
        Those of its rows that are learned from.
    loss
        Of outputs; it is given numbers in 0 .. n - 1, places in `rows`.
    start : shape (n_outputs,)
        What the outputs' biases begin as: best what the outputs would be if nothing were known of a row. A bias moves
        by no more than the rate a step, and until a rare label's has come down to its -2 or -4 the weights make up for
        it, each training video by what is peculiar to it.
    groups : shape (n,)
        Of which whole ones are held out.
    config
        Hidden layers, of ``mlp``; rate, decay, epochs, stopping, seed.
    least_steps
        Of the fit on all rows, whatever the held-out fold says.

    Raises
    ------
    ShapeError
        If something is to be held out, and there is one group only.
    PrecisionError
        If the loss is no longer a number.
    """
    table = torch.from_numpy(rows).to(X.device)
    places = np.arange(len(rows))
    descent = _Descent(X, table, _centre(X, table, config), loss, config, torch.from_numpy(start).float())
    if not config.early_stopping_rounds:
        return Descended(descent.run(places, None, config.epochs)[0], config.epochs)
    held = hold_out(groups, config.held_out, seed=config.seed)
    layers, epoch = descent.run(places[~held], places[held], config.epochs)
    if config.refit:
        steps_per_epoch = -(-len(places) // descent.step_rows(len(places)))
        epoch = min(config.epochs, max(epoch, -(-least_steps // steps_per_epoch)))
        layers, _ = descent.run(places, None, epoch)
    return Descended(layers, epoch)


@dataclass(frozen=True, slots=True)
class _Descent:
    X: Tensor
    table: Tensor
    centre: Tensor
    loss: Loss
    config: LightConfig
    start: Tensor

    def run(self, learned: IntArray, judged: IntArray | None, epochs: int) -> tuple[Layers, int]:
        """The layers of the best epoch, and which it was; of the last one where nothing judges."""
        config, device = self.config, self.X.device
        with seeded(config.seed, device):
            network = self._network().to(device)
            optimizer = torch.optim.AdamW(
                network.parameters(), lr=config.rate, weight_decay=config.weight_decay, fused=True
            )
            order = np.random.default_rng(config.seed)
            best_loss, best_epoch, best = np.inf, 0, network.state_dict()
            for epoch in range(1, epochs + 1):
                shuffled = torch.from_numpy(order.permutation(learned)).to(device)
                self._train(network, optimizer, shuffled)
                if judged is None:
                    best_epoch, best = epoch, network.state_dict()
                    continue
                judged_loss = self._judge(network, torch.from_numpy(judged).to(device))
                if judged_loss < best_loss:
                    best_loss, best_epoch, best = judged_loss, epoch, copy.deepcopy(network.state_dict())
                if epoch - best_epoch >= config.early_stopping_rounds:
                    break
        if not all(torch.isfinite(each).all() for each in best.values()) or not best_epoch:
            raise PrecisionError(
                f"The weights of a light head became infinite (learning rate {config.rate}). Lower the learning rate, "
                "or normalise the inputs."
            )
        network.load_state_dict(best)
        return _read_out(network, self.centre), best_epoch

    def step_rows(self, n_rows: int) -> int:
        """Rows a step."""
        return self.config.batch_rows or rows_per_step(n_rows)

    def _network(self) -> nn.Sequential:
        widths = [self.X.shape[1], *self.config.hidden_layers]
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            parts += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(self.config.dropout)]
        last = nn.Linear(widths[-1], len(self.start))
        with torch.no_grad():
            last.bias.copy_(self.start)
            if len(widths) == 1:  # a convex problem, which needs no chance to begin with
                last.weight.zero_()
        return nn.Sequential(*parts, last)

    def _train(self, network: nn.Sequential, optimizer: torch.optim.Optimizer, shuffled: Tensor) -> None:
        network.train()
        for places in torch.split(shuffled, self.step_rows(len(shuffled))):
            loss = self.loss(network(self._inputs(places)), places)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()

    @torch.inference_mode()
    def _judge(self, network: nn.Sequential, places: Tensor) -> float:
        network.eval()
        outputs = [network(self._inputs(block)) for block in torch.split(places, _BLOCK_ROWS)]
        return float(self.loss(torch.cat(outputs), places))

    def _inputs(self, places: Tensor) -> Tensor:
        return self.X[self.table[places]] - self.centre


def _centre(X: Tensor, table: Tensor, config: LightConfig) -> Tensor:
    """What is subtracted from the inputs, shape (n_columns,): without hidden layers, their mean over the training rows.

    The inputs are normalised over all train rows, of which only some have labels of a task (see `TaskOutput.centre` in
    heads/modules/outputs.py): F1 of action units with one layer on 600 rows of 15 videos .53, centred .58. Hidden
    layers gained nothing by it, and read the inputs as they are.
    """
    total = torch.zeros(X.shape[1], device=X.device)
    if not config.hidden_layers:
        for block in torch.split(table, _BLOCK_ROWS):
            total += X[block].sum(dim=0) / len(table)
    return total


def _read_out(network: nn.Sequential, centre: Tensor) -> Layers:
    """The layers of inputs that are not centred."""
    linear = [part for part in network if isinstance(part, nn.Linear)]
    weights = [part.weight.detach().cpu().double().numpy() for part in linear]
    biases = [part.bias.detach().cpu().double().numpy() for part in linear]
    biases[0] = biases[0] - weights[0] @ centre.cpu().double().numpy()
    return Layers(tuple(weights), tuple(biases))
