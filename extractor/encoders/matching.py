"""Weights of any known form into a backbone, with an account of every tensor on either side.

A backbone that silently keeps random weights somewhere looks like a bad encoder, not like an error. So all of it must
be filled, from the file or by a rule that is said; and nothing that the file has inside the backbone's own parts may be
left over, because then it is a deeper network, or one that computes something else. What is known to belong to training
alone (decoders, mask tokens, classifiers) is dropped and counted.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from featurestore.errors import StoreError

from .renaming import best_prefix, own_names, query_or_value_biases, timm_names, without_prefix

_MAX_NAMES: Final = 4

# What belongs to training: what it is called -> names, as they are in the file.
_TRAINING_PARTS: Final[Mapping[str, re.Pattern[str]]] = {
    "decoder of the pre-training": re.compile(r"decoder[._]"),
    "mask token": re.compile(r"mask_token$"),
    "heads of the pre-training": re.compile(r"(?:dino_head|ibot_head|projectors?|predictor|contrastive|norms)\."),
}
_CLASSIFIER: Final = re.compile(r"(?:head|fc|classifier|head_dist|last_linear|logits|margin|arcface)\.")
# Parts whose presence changes what is computed, even where the backbone has nothing of that name. A single parameter
# computes if it is a token or a position; others serve the training (log_vars, logit_scale, queue).
_COMPUTING: Final = re.compile(
    r"(?:norm_pre|patch_norm|blocks|layers?\d*|stages|features|conv\w*|bn\d*)\.|\w*(?:token|embed|position|prompt)\w*$"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchReport:
    """What became of the tensors of a file, and where those of the backbone came from."""

    matched: int  # tensors of the backbone that the file filled, as they are or resampled
    total: int  # tensors of the backbone
    prefix: str = ""  # stood before every name in the file
    missing: tuple[str, ...] = ()  # of the backbone, kept at their random start values
    mismatched: Mapping[str, str] = field(default_factory=dict)  # name -> both shapes; kept at start values too
    unexpected: tuple[str, ...] = ()  # of the file, not used
    reinitialised: Mapping[str, str] = field(default_factory=dict)  # name -> how it was filled otherwise
    dropped: Mapping[str, int] = field(default_factory=dict)  # what belongs to training alone -> tensors
    others: tuple[str, ...] = ()  # further sets of weights in the file, such as an average of these

    @property
    def is_partial(self) -> bool:
        """Whether some of the backbone kept its random start values."""
        return bool(self.missing or self.mismatched)

    def to_json(self) -> dict[str, JsonValue]:
        """The fields as JSON values, in the order of declaration."""
        return {
            "matched": self.matched,
            "total": self.total,
            "prefix": self.prefix,
            "missing": list(self.missing),
            "mismatched": dict(self.mismatched),
            "unexpected": list(self.unexpected),
            "reinitialised": dict(self.reinitialised),
            "dropped": dict(self.dropped),
            "others": list(self.others),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, JsonValue]) -> "MatchReport":
        """The report that `to_json` wrote; further fields are let be.

        Raises
        ------
        StoreError
            If a field is missing or of another type.
        """
        return cls(
            matched=_number(values, "matched"),
            total=_number(values, "total"),
            prefix=f"{values.get('prefix', '')}",
            missing=_names(values, "missing"),
            mismatched={name: f"{how}" for name, how in _mapping(values, "mismatched").items()},
            unexpected=_names(values, "unexpected"),
            reinitialised={name: f"{how}" for name, how in _mapping(values, "reinitialised").items()},
            dropped={why: int(f"{n}") for why, n in _mapping(values, "dropped").items()},
            others=_names(values, "others") if "others" in values else (),
        )

    def rows(self) -> list[tuple[str, int, str]]:
        """The table to print: what, how many tensors, and which, or where they came from."""
        rows = [("matched", self.matched, f"of {self.total}" + (f", under {self.prefix!r}" if self.prefix else ""))]
        for how in dict.fromkeys(self.reinitialised.values()):
            names = [name for name, each in self.reinitialised.items() if each == how]
            rows.append(("re-initialised", len(names), f"{_few(names)}: {how}"))
        rows.append(("missing", len(self.missing), _few(self.missing)))
        if self.mismatched:
            shapes = [f"{name}: {how}" for name, how in self.mismatched.items()]
            rows.append(("of another shape", len(shapes), _few(shapes)))
        rows.append(("unexpected", len(self.unexpected), _few(self.unexpected)))
        rows.extend(("dropped", n, why) for why, n in self.dropped.items())
        if self.others:
            rows.append(("other sets", len(self.others), f"{_few(self.others)}: weights in the file too, not taken"))
        return rows


def fit_weights(
    backbone: nn.Module, state: Mapping[str, Tensor], *, allow_partial: bool = False, where: str = "the file"
) -> MatchReport:
    """Fill a backbone.

    Parameters
    ----------
    backbone
        Filled in place, and only if all goes well.
    state
        Name -> tensor, in any form that `renaming` knows; any floating type.
    allow_partial
        Let what is missing keep its random start values.
    where
        Names the file in errors.

    Raises
    ------
    StoreError
        If less than all of the backbone is filled, or the file has more in it, and `allow_partial` is not set; or if
        nothing fits, or a value is not finite.
    """
    own = backbone.state_dict()
    prefix = best_prefix(state, backbone)
    inner = _inside(state, prefix, own.keys())
    dropped = {f"outside {prefix!r}": len(state) - len(inner)} if len(inner) < len(state) else {}
    for what, pattern in _TRAINING_PARTS.items():
        if n := sum(pattern.match(name) is not None for name in inner):
            dropped[what] = n
    # The mask token stays for now: timm's filter knows DINOv2 by it.
    given = own_names({n: t for n, t in inner.items() if n == "mask_token" or not _is_for_training(n)})
    named = {name: tensor for name, tensor in timm_names(given, backbone).items() if not _is_for_training(name)}
    has_fc_norm = any(name.endswith("fc_norm.weight") for name in state)

    filled: dict[str, Tensor] = {}
    mismatched: dict[str, str] = {}
    missing: list[str] = []
    reinitialised: dict[str, str] = {}
    for name, start in own.items():
        if name in named:
            if how := _difference(named[name], start):
                mismatched[name] = how
            else:
                filled[name] = named[name]
                if name in given and given[name].shape != start.shape:
                    reinitialised[name] = _resampling(name, given[name], start)
        elif name.endswith("num_batches_tracked"):
            reinitialised[name] = "a count of training steps, which files of old versions lack and inference ignores"
        elif (
            (twin := name.replace("fc_norm.", "norm.")) != name
            and twin in named
            and twin not in own
            and not has_fc_norm
        ):
            filled[name] = named[twin]
            reinitialised[name] = "from norm: a raw MAE has no fc_norm"
        else:
            missing.append(name)

    unexpected: list[str] = []
    classifier = _classifier_names(named, backbone)
    if classifier:
        dropped["classifier"] = len(classifier)
    for name in named.keys() - own.keys() - classifier:
        if name in ("norm.weight", "norm.bias") and "fc_norm.weight" in own:
            if "fc_norm.weight" in named:
                dropped["norm, in whose place fc_norm stands"] = (
                    dropped.get("norm, in whose place fc_norm stands", 0) + 1
                )
        else:
            unexpected.append(name)
    if not any(name.endswith(("attn.qkv.bias", "attn.q_bias")) for name in own):
        unexpected += query_or_value_biases(given)  # timm's filter leaves them out without a word
    report = MatchReport(
        matched=sum(name in filled and not reinitialised.get(name, "").startswith("from") for name in own),
        total=len(own),
        prefix=prefix,
        missing=tuple(missing),
        mismatched=mismatched,
        unexpected=tuple(sorted(unexpected)),
        reinitialised=reinitialised,
        dropped=dropped,
    )
    _check(report, backbone, filled, allow_partial=allow_partial, where=where)
    backbone.load_state_dict(filled, strict=False)
    return report


def surplus_names(names: Iterable[str], backbone: nn.Module) -> list[str]:
    """What of a file computes something that a backbone does not: its names, in the backbone's form.

    Neither a classifier nor what belongs to training counts.
    """
    left = {name for name in names if not _is_for_training(name)}
    left -= backbone.state_dict().keys() | _classifier_names(left, backbone)
    return _computing(sorted(left), backbone)


def _computing(names: Iterable[str], backbone: nn.Module) -> list[str]:
    parts = {name.split(".")[0] for name in backbone.state_dict()}
    return [name for name in names if name.split(".")[0] in parts or _COMPUTING.match(name)]


def _classifier_names(names: Iterable[str], backbone: nn.Module) -> set[str]:
    """Those of the layer that gives scores, which the backbone does not have.

    timm says of each of its networks where that layer is (``head.fc``): other parts of ``head`` compute features.
    """
    own = backbone.state_dict().keys()
    parts = {name.split(".")[0] for name in own}
    layers = tuple(f"{layer}." for layer in _classifiers(backbone))
    return {
        name
        for name in names
        if name not in own
        and (name.startswith(layers) or (_CLASSIFIER.match(name) is not None and name.split(".")[0] not in parts))
    }


def _classifiers(backbone: nn.Module) -> list[str]:
    """Where timm puts the scores of a network: "head.fc"; where it is a small network of its own, all of that."""
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}  # a timm mapping, whose values are of all types
    told = config.get("classifier") or ()
    layers = []
    for layer in (told,) if isinstance(told, str) else told:
        around = layer.rpartition(".")[0]
        is_whole = "." in around and not any(name.startswith(f"{around}.") for name in backbone.state_dict())
        layers.append(around if is_whole else layer)
    return layers


def _inside(state: Mapping[str, Tensor], prefix: str, wanted: Collection[str]) -> dict[str, Tensor]:
    """The tensors under a prefix, and of those beside it what the backbone wants, such as a model's own fc_norm."""
    inner = without_prefix(state, prefix)
    words = prefix.split(".")[:-1]
    for n in reversed(range(len(words))):
        around = "".join(f"{word}." for word in words[:n])
        beside = without_prefix(state, around)
        inner |= {name: tensor for name, tensor in beside.items() if name in wanted and name not in inner}
    return inner


def _check(
    report: MatchReport, backbone: nn.Module, filled: Mapping[str, Tensor], *, allow_partial: bool, where: str
) -> None:
    kind = type(backbone).__name__
    if not report.matched and not report.mismatched:
        raise StoreError(
            f"None of the {report.total} tensors of {kind} is in {where}, whose names begin "
            f"{_few(report.unexpected) or 'nowhere'}. Name the architecture that the file was made with."
        )
    surplus = _computing(report.unexpected, backbone)
    if (report.is_partial or surplus) and (not allow_partial or not report.matched):
        found = [f"{report.matched} of {report.total} tensors of {kind} are in {where}"]
        if report.missing:
            found.append(f"{len(report.missing)} missing ({_few(report.missing)})")
        if report.mismatched:
            shapes = [f"{name}: {how}" for name, how in report.mismatched.items()]
            found.append(f"{len(shapes)} of another shape ({_few(shapes)})")
        if surplus:
            found.append(f"{len(surplus)} more in the file ({_few(surplus)})")
        raise StoreError(f"All weights were expected, but {'; '.join(found)}. {_advice(report, surplus)}")
    broken = [
        n for n, t in filled.items() if t.is_floating_point() and not t.is_meta and not bool(torch.isfinite(t).all())
    ]
    if broken:
        raise StoreError(f"{where} holds values that are not finite, in {_few(broken)}. Take an earlier checkpoint.")


def _advice(report: MatchReport, surplus: list[str]) -> str:
    if set(report.missing) == {"norm.weight", "norm.bias"} and "fc_norm.weight" in report.unexpected:
        return "The file was trained with pooling fc_norm: choose that. Or allow a partial load (--allow-partial)."
    if any(name.startswith(("head.", "classifier.")) for name in (*report.missing, *report.mismatched)):
        return (
            "Scores are kept only where the file's classifier has as many outputs: set the encoder's n_scores to that."
        )
    return "Name the architecture and pooling of the file, or allow a partial load (--allow-partial)."


def _is_for_training(name: str) -> bool:
    return any(pattern.match(name) for pattern in _TRAINING_PARTS.values())


def _difference(tensor: Tensor, start: Tensor) -> str:
    """In what a tensor cannot fill a place; empty if it can."""
    if tensor.shape != start.shape:
        return f"{tuple(tensor.shape)} in the file, {tuple(start.shape)} in the architecture"
    # Eight bits mean little without the scale that goes with them.
    if start.is_floating_point() and (not tensor.is_floating_point() or tensor.dtype.itemsize < 2):
        return f"{tensor.dtype} in the file, which is quantised".replace("torch.", "")
    return ""


def _resampling(name: str, tensor: Tensor, start: Tensor) -> str:
    if name == "pos_embed":
        before, after = (_grid(int(each.shape[1])) for each in (tensor, start))
        return f"resampled from a grid of {before} to {after} patches"
    return f"reshaped from {tuple(tensor.shape)} to {tuple(start.shape)}"


def _grid(n_tokens: int) -> str:
    """Rows and columns of a square grid with at most a few tokens of another kind before it."""
    side = int(n_tokens**0.5)
    return f"{side} x {side}"


def _few(names: "tuple[str, ...] | list[str]") -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _number(values: Mapping[str, JsonValue], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int):
        raise _unfit(name, "a number", value)
    return value


def _names(values: Mapping[str, JsonValue], name: str) -> tuple[str, ...]:
    value = values.get(name)
    if not isinstance(value, list):
        raise _unfit(name, "a list of names", value)
    return tuple(f"{each}" for each in value)


def _mapping(values: Mapping[str, JsonValue], name: str) -> Mapping[str, JsonValue]:
    value = values.get(name, {})
    if not isinstance(value, dict):
        raise _unfit(name, "a mapping", value)
    return value


def _unfit(name: str, expected: str, value: JsonValue) -> StoreError:
    return StoreError(f"A match report holds {name!r} as {expected}, not {value!r}. Adopt the weights again.")
