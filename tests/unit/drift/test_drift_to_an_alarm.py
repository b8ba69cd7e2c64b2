"""From rows that a process has scored to an alarm that names what changed: both halves, on real digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from cluster.errors import NotFound
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.drift.drift_sample import DriftSample
from deployments.drift.version_counting import WHOLE_ROWS, VersionCounting
from deployments.engines.datatypes import Array
from deployments.profiles.form import Profile
from deployments.profiles.making import make_profile
from headrace.cli.main import main
from tests.support.brain_client import ask_brain
from tests.support.watched import TICK_S, Watched

SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", datatype=Datatype.FP32, shape=(-1, 8, 8)),),
    outputs=(TensorSpec(name="p", datatype=Datatype.FP32, shape=(-1, 10)),),
)
PROFILED = 1000


class Scored:
    """A classifier of digits, held-out rows of which the first 1,000 make its profile, and a process that scores with it."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(3).permutation(len(images))
        images, labels = images[order].astype(np.float32) / 16, labels[order]
        self.model = LogisticRegression(max_iter=200).fit(images[:500], labels[:500])
        self.images = images[500:].reshape(-1, 8, 8)
        self.now_s = 0.0
        self.sample = DriftSample(clock=lambda: self.now_s)

    def answers(self, images: Array) -> Array:
        found: Array = self.model.predict_proba(images.reshape(len(images), 64)).astype(np.float32)
        return found

    def profile(self) -> Profile:
        held = self.images[:PROFILED]
        return make_profile(SIGNATURE, {"image": held}, {"p": self.answers(held)})

    def scores(self, counting: VersionCounting, images: Array, watched: Watched) -> None:
        """Rows of one tick are looked at, and the controller is told."""
        self.now_s += TICK_S
        drawn = self.sample.drawn(counting, {"image": images}, {"p": self.answers(images)}, np.arange(len(images)))
        if drawn is not None:
            self.sample.put(drawn)
        tell(self.sample, watched)


def tell(sample: DriftSample, watched: Watched) -> None:
    """As DriftPush does; and a tick of the controller."""
    for report in sample.reports():
        try:
            watched.brain.controller.push(report)
        except NotFound:
            watched.brain.controller.push(sample.reference_of(report))
        sample.delivered(report)
    watched.brain.tick(each_s=TICK_S)


@pytest.fixture(scope="module")
def scored() -> Scored:
    return Scored()


def test_rows_like_the_profiles_raise_no_alarm_and_others_are_named(scored: Scored) -> None:
    watched, counting = Watched(), VersionCounting("digits", 1, scored.profile())
    random = np.random.default_rng(4)
    rest = scored.images
    for _ in range(15):
        scored.scores(counting, rest[random.integers(0, len(rest), 250)], watched)
    assert watched.status()["alarmed"] == 0
    (seen,) = watched.status()["versions"]
    assert (seen["features"], seen["profile_rows"]) == (75, PROFILED)
    assert seen["rows"] > 3000
    turns = 0
    while not watched.status()["alarmed"] and turns < 60:
        turns += 1
        scored.scores(counting, 1 - rest[random.integers(0, len(rest), 250)], watched)
    assert 0 < turns < 30
    named = set(watched.alarmed())
    assert WHOLE_ROWS in named or any(name.startswith(("image[", "p[")) for name in named)
    for _ in range(10):
        scored.scores(counting, 1 - rest[random.integers(0, len(rest), 250)], watched)
    assert WHOLE_ROWS in watched.alarmed()
    assert any(name.startswith("image[") for name in watched.alarmed())


def test_a_version_without_a_profile_is_said_to_have_none_unless_another_process_has_read_one(
    scored: Scored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched, bare, image = Watched(), VersionCounting("digits", 1, None), scored.images[:50]
    ask_brain(watched.brain, monkeypatch)
    sample = DriftSample()
    assert main(["drift", "status", "digits"]) == 0
    assert "nothing was heard of its rows yet" in capsys.readouterr().out
    sample.drawn(bare, {"image": image}, {"p": scored.answers(image)}, np.arange(50))
    tell(sample, watched)
    assert main(["drift", "status", "digits"]) == 0
    assert "version 1: it has no profile, so its rows are not watched" in capsys.readouterr().out
    counting = VersionCounting("digits", 1, scored.profile())
    scored.scores(counting, image, watched)
    sample.drawn(bare, {"image": image}, {"p": scored.answers(image)}, np.arange(50))
    tell(sample, watched)
    scored.scores(counting, image, watched)
    (seen,) = watched.status()["versions"]
    assert (seen["features"], seen["rows"]) == (75, 100)
