"""What `headrace apply` waits for, and when it says instead that waiting is in vain."""

from __future__ import annotations

import pytest

from cluster.commands.documents import Apply, FeedDocument, ModelDocument
from cluster.commands.status import StatusView
from cluster.errors import BadInput, EngineFailure
from cluster.fleet.serving import Serving
from cluster.versions import Version
from deployments.serving.fake_fleet import FakeFleet
from headrace.cli.apply import unready
from tests.support.brain import SIGNATURE, Brain

DOCUMENTS = Apply(models=(ModelDocument(name="digits"),))


def awaited(brain: Brain) -> list[str]:
    return unready(StatusView.model_validate(brain.call("status")), DOCUMENTS)


def test_it_waits_for_the_first_version_and_no_longer() -> None:
    brain = Brain()
    brain.build(1)
    brain.apply()
    brain.tick()
    assert awaited(brain) == ["model digits: first version is starting"]
    brain.tick(4)
    assert awaited(brain) == []


def with_one_given_up() -> Brain:
    """Version 1 could not start, and its rollout is over."""
    brain = Brain()
    brain.fleet.doom("digits--v1", "no such operator")
    brain.build(1)
    brain.apply()
    brain.tick(40, each_s=1)
    return brain


def test_a_first_version_that_was_given_up_is_not_waited_for_and_its_next_try_is() -> None:
    brain = with_one_given_up()
    with pytest.raises(EngineFailure, match=r"rolled_back: the candidate is failed: no such operator .*rollout start digits"):
        awaited(brain)
    brain.call("rollout.start", model="digits")
    brain.tick()
    assert awaited(brain) == ["model digits: first version is starting"]


def test_after_a_version_that_was_given_up_a_newer_one_is_waited_for() -> None:
    brain = with_one_given_up()
    brain.build(2)
    assert awaited(brain) == ["model digits: first version is starting"]


def test_a_version_that_the_fleet_refuses_is_told_with_its_reason() -> None:
    class Refusing(FakeFleet):
        def deploy(self, version: Version, serving: Serving, replicas: int) -> None:
            raise BadInput("no node is called so", where=str(version.id), remedy="correct it")

    brain = Brain(fleet=Refusing())
    brain.build(1)
    brain.apply()
    brain.tick(4)
    with pytest.raises(EngineFailure, match="no node is called so"):
        awaited(brain)


def test_a_stable_version_that_fails_is_told_with_when_it_is_tried_again_and_not_as_serving_on() -> None:
    brain = Brain()
    brain.serve_first()
    brain.fleet.vanish("digits--v1")
    brain.fleet.doom("digits--v1", "no such folder")
    brain.tick(3)
    with pytest.raises(EngineFailure, match=r"no such folder; failed once, is tried again in \d s") as refused:
        awaited(brain)
    assert "it is tried again by itself" in refused.value.remedy
    assert "goes on serving" not in refused.value.remedy


def test_a_stream_whose_document_is_refused_is_not_waited_for() -> None:
    brain = Brain()
    brain.serve_first()
    brain.streams.refused["scores"] = BadInput("there is no codec yaml", where="stream scores", remedy="name another")
    stream = FeedDocument(kind="stream", name="scores", model="digits", spec={})
    brain.call("apply", feeds=[stream.model_dump()])
    brain.tick(2)
    with pytest.raises(EngineFailure, match="there is no codec yaml"):
        unready(StatusView.model_validate(brain.call("status")), Apply(feeds=(stream,)))


def test_one_that_fails_keeps_no_other_from_being_waited_for() -> None:
    brain = with_one_given_up()
    brain.call("apply", models=[{"name": "letters"}])
    brain.call("version.register", model="letters", artifact_uri="/letters", digest="d", engine="onnx", signature=SIGNATURE)
    documents = Apply(models=(ModelDocument(name="digits"), ModelDocument(name="letters")))
    brain.tick()

    def left() -> list[str]:
        return unready(StatusView.model_validate(brain.call("status")), documents)

    starting, failed = left()
    assert starting == "model letters: first version is starting"
    assert failed.startswith("digits version 1 its rollout ended, rolled_back")
    brain.tick(4)
    with pytest.raises(EngineFailure, match="no such operator"):
        left()


def test_a_version_whose_files_are_away_is_waited_for_and_told() -> None:
    brain = Brain()
    brain.fleet.doom("digits--v1", "s3://versions: nothing lies there", transient=True)
    brain.build(1)
    brain.apply()
    brain.tick(40)
    (words,) = awaited(brain)
    assert words.startswith("digits version 1: since ")
    assert "s3://versions: nothing lies there" in words
    brain.fleet.mend("digits--v1")
    brain.tick(100)
    assert awaited(brain) == []
