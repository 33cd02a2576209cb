"""AIM3-RUC's feedback frameworks (ABAW4): some tasks are predicted first, and the others hear of it.

C, hidden feedback: the last hidden layers of the source tasks' outputs, detached, stand beside the shared state for the
receiving tasks: 1024 + 2 x 256 columns at the paper's sizes, V and AU the sources. Without hidden layers there
would be nothing to feed back but the shared state itself, so `HeadConfig` refuses that.

C', label feedback: a source task's labels weigh the rows of a learned table of `label_width` columns (256), and the sum
stands beside the shared state: probabilities of the action units over 12 rows, of the expressions over 8; V and A, as
in AIM3's code, weigh a single row by (value + 1) / 2. Predictions are detached here too: the sources are not moved by
what others make of them. In training true labels take their place where the trainer says so (scheduled sampling,
Bengio et al., NIPS 2015); in evaluation mode never, whatever is given.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.tasks import TASKS

from .config import HeadConfig
from .frameworks import Labels, ShareEncoder, task_modules
from .outputs import TaskOutput
from .shapes import Shapes


class Feedback(ShareEncoder):
    """Interface of both: what a source feeds back stands beside the shared state of the receivers.

    Parameters
    ----------
    config
        The head's; its `sources` and `receivers`.
    shapes
        Encoder -> (D,).
    """

    def __init__(self, config: HeadConfig, shapes: Shapes) -> None:
        super().__init__(config, shapes)
        self.sources, self.receivers = config.sources, config.receivers

    def read(self, states: Tensor, labels: Labels | None) -> dict[str, Tensor]:
        """Logits of each joined task from the trunk's states (B, S, H)."""
        logits: dict[str, Tensor] = {}
        fed = [states]
        for task in self.sources:
            logits[task], told = self.feed(task, states, labels)
            fed.append(told)
        heard = torch.cat(fed, dim=-1)
        for task, output in self.outputs.items():
            if task not in logits:
                logits[task] = output(heard if task in self.receivers else states)
        return {task: logits[task] for task in self.outputs}

    def feed(self, task: str, states: Tensor, labels: Labels | None) -> tuple[Tensor, Tensor]:
        """A source's logits (B, S, n_outputs), and what it feeds back, (B, S, width)."""
        raise NotImplementedError

    def _fed_outputs(self, config: HeadConfig, width: int, fed_width: int) -> dict[str, TaskOutput]:
        heard = width + len(config.sources) * fed_width
        return {task: self._output(task, heard if task in config.receivers else width, config) for task in config.joint}


class HiddenFeedback(Feedback):
    """The sources' last hidden layers, detached, go to the receivers."""

    def feed(self, task: str, states: Tensor, labels: Labels | None) -> tuple[Tensor, Tensor]:
        """A source's logits, and its last hidden layer (B, S, hidden_width), dropout included."""
        logits, hidden = self.outputs[task].read(states)
        return logits, hidden.detach()

    def _make_outputs(self, config: HeadConfig, width: int) -> dict[str, TaskOutput]:
        return self._fed_outputs(config, width, config.hidden_layers[-1])


class LabelFeedback(Feedback):
    """The sources' labels, each a weighted table, go to the receivers.

    Parameters
    ----------
    config
        The head's; its `sources`, `receivers` and `label_width`.
    shapes
        Encoder -> (D,).

    Attributes
    ----------
    tables
        Source task -> Linear without bias from its label's weights to `label_width` columns.
    """

    def __init__(self, config: HeadConfig, shapes: Shapes) -> None:
        super().__init__(config, shapes)
        tables = {task: nn.Linear(TASKS[task].n_outputs, config.label_width, bias=False) for task in self.sources}
        for table in tables.values():
            nn.init.normal_(table.weight)  # as rows of an embedding: a certain label is as loud as the shared state
        self.tables = task_modules(tables)

    def feed(self, task: str, states: Tensor, labels: Labels | None) -> tuple[Tensor, Tensor]:
        """A source's logits, and its weighted table (B, S, label_width)."""
        logits = self.outputs[task](states)
        return logits, self.tables[task](self.fed_weights(task, logits, labels))

    def fed_weights(self, task: str, logits: Tensor, labels: Labels | None) -> Tensor:
        """What a source's table is weighed by.

        Parameters
        ----------
        task
            The source.
        logits : shape (B, S, n_outputs)
            Its own, which are not moved by what is made of them here.
        labels
            True labels, and where they are used; read in training only.

        Returns
        -------
        shape (B, S, n_outputs), in [0, 1].
        """
        predicted = _as_weights(task, logits.detach())
        if not self.training or labels is None or task not in labels:
            return predicted
        true, where = labels[task]
        if task != "au":
            where = where.unsqueeze(-1)
        return torch.where(where, _true_weights(task, true).to(predicted.dtype), predicted)

    def _make_outputs(self, config: HeadConfig, width: int) -> dict[str, TaskOutput]:
        return self._fed_outputs(config, width, config.label_width)


def _as_weights(task: str, logits: Tensor) -> Tensor:
    match task:
        case "au":
            return logits.sigmoid()
        case "expr":
            return logits.softmax(dim=-1)
        case _:
            return (torch.tanh(logits) + 1) / 2


def _true_weights(task: str, labels: Tensor) -> Tensor:
    match task:
        case "au":
            return labels
        case "expr":
            return functional.one_hot(labels, TASKS["expr"].n_outputs)
        case _:
            return (labels.unsqueeze(-1) + 1) / 2
