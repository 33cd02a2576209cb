"""A fit that can hardly have learned what is there says so, and a good one says nothing."""

from dataclasses import replace

import pytest

from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import FittedHead, fit
from heads.light.config import LightConfig
from heads.light.fit import fit_light
from heads.modules.config import HeadConfig
from heads.runs.judging import Judging
from heads.runs.making import make
from heads.runs.remarks import remarks_on
from heads.scoring.scores import Scores
from heads.tasks import PARTS, PartName


@pytest.fixture(scope="module")
def fitted(features: FeatureSet) -> FittedHead:
    """Two epochs of a small head, whose curve and scores the tests then write themselves."""
    head = HeadConfig(temporal="none", seq=1, joint=("v", "a"), hidden=())
    return fit(features, head, FitConfig(epochs=2, batch_frames=64))


def with_curve(fitted: FittedHead, losses: list[float], *, n_steps: int, epochs: int, epoch: int) -> FittedHead:
    """The fit as if it had gone so."""
    curve = tuple(replace(fitted.curve[0], epoch=i, loss=loss) for i, loss in enumerate(losses, start=1))
    schedule = replace(fitted.schedule, steps_per_epoch=n_steps, epochs=epochs)
    return replace(fitted, curve=curve, schedule=schedule, epochs=dict.fromkeys(fitted.epochs, epoch))


def scores_of(fitted: FittedHead, score: float, *, trivial: float = 0.0) -> Scores:
    """Every part that is there scores this."""
    found = {name: fitted.scores.parts[name] for name in PARTS}
    parts: dict[PartName, object] = {
        name: None if part is None else replace(part, score=score, trivial=trivial) for name, part in found.items()
    }
    return replace(fitted.scores, parts=parts)  # type: ignore[arg-type]


FALLING = [1.0 * 0.95**epoch for epoch in range(40)]
FLAT = [1.0 * 0.9**epoch for epoch in range(20)] + [0.1] * 20


def test_few_steps_are_remarked_on(fitted: FittedHead) -> None:
    short = with_curve(fitted, FALLING[:5], n_steps=19, epochs=5, epoch=5)
    (said,) = remarks_on(short, scores_of(fitted, 0.5), None)
    assert said.startswith("The fit took 95 steps (5 epochs of 19), too few for a head to learn. Leave out --epochs ")
    enough = with_curve(fitted, [1.0] * 5, n_steps=20, epochs=5, epoch=5)
    assert remarks_on(enough, scores_of(fitted, 0.5), None) == ()


def test_a_loss_that_still_falls_is_remarked_on(fitted: FittedHead) -> None:
    scores = scores_of(fitted, 0.5)
    cut = with_curve(fitted, FALLING, n_steps=20, epochs=40, epoch=40)
    (said,) = remarks_on(cut, scores, None)
    assert said.startswith("The loss was still falling when the fit ended after 800 steps (40 epochs of 20). ")
    # Not if it has come to rest, if the best epoch was long before, or if patience ended the fit.
    assert remarks_on(with_curve(fitted, FLAT, n_steps=20, epochs=40, epoch=40), scores, None) == ()
    assert remarks_on(with_curve(fitted, FALLING, n_steps=20, epochs=40, epoch=20), scores, None) == ()
    assert remarks_on(with_curve(fitted, FALLING, n_steps=20, epochs=200, epoch=40), scores, None) == ()


def test_a_score_below_the_trivial_one_or_the_probes_is_remarked_on(fitted: FittedHead) -> None:
    fine = with_curve(fitted, FLAT, n_steps=20, epochs=40, epoch=30)
    found = remarks_on(fine, scores_of(fitted, 0.1, trivial=0.2), scores_of(fitted, 0.3))
    assert found == (
        "CCC valence 0.100 is below the trivial one, 0.200.",
        "CCC arousal 0.100 is below the trivial one, 0.200.",
        "CCC valence 0.100 is below a linear probe's, 0.300.",
        "CCC arousal 0.100 is below a linear probe's, 0.300.",
    )
    assert remarks_on(fine, scores_of(fitted, 0.495), scores_of(fitted, 0.5)) == ()  # chance, not a remark
    assert len(remarks_on(fine, scores_of(fitted, 0.485), scores_of(fitted, 0.5))) == 2
    assert remarks_on(fine, scores_of(fitted, 0.2, trivial=0.2), None) == ()


def test_a_part_without_a_score_is_not_remarked_on(fitted: FittedHead) -> None:
    fine = with_curve(fitted, FLAT, n_steps=20, epochs=40, epoch=30)
    low = scores_of(fitted, 0.1)
    without = replace(low, parts={**low.parts, "ccc_arousal": None})
    assert remarks_on(fine, without, scores_of(fitted, 0.5)) == ("CCC valence 0.100 is below a linear probe's, 0.500.",)
    probe = scores_of(fitted, 0.5)
    probe = replace(probe, parts={**probe.parts, "ccc_valence": None})
    assert remarks_on(fine, low, probe) == ("CCC arousal 0.100 is below a linear probe's, 0.500.",)


def test_a_light_head_has_no_steps_to_remark_on(features: FeatureSet) -> None:
    light = fit_light(features, LightConfig(estimator="ridge", joint=("v", "a"), C=0.1))
    assert remarks_on(light, light.scores, None) == ()
    (said,) = remarks_on(
        light,
        light.scores,
        replace(
            light.scores,
            parts={
                **light.scores.parts,
                "ccc_valence": replace(light.scores.parts["ccc_valence"], score=1.0),  # type: ignore[type-var]
            },
        ),
    )
    assert said.endswith("is below a linear probe's, 1.000.")


def test_a_fit_tells_of_itself(features: FeatureSet) -> None:
    head = HeadConfig(temporal="none", seq=1, joint=("v", "a"), hidden=())
    made = make(features, head, FitConfig(epochs=1, batch_frames=64), Judging(probe=False))
    assert made.remarks[0].startswith("The fit took 3 steps (1 epochs of 3), too few")
    good = make(features, head, FitConfig(epochs=60, batch_frames=64, learning_rate=1e-2))
    assert good.probe is not None
    assert good.remarks == ()
