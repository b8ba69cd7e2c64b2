"""What an image brings: one version that can't be taken keeps no other from being served, is told, and tried again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.commands.documents import ModelDocument
from cluster.errors import HeadraceError, Unreachable
from deployments.artifacts.manifest import read_manifest
from deployments.images.image import DOCUMENT
from headrace.client import ControlClient
from headrace.local.home import Home, read_settings
from headrace.local.lock import Busy, only_one
from headrace.local.options import UpOptions
from headrace.local.repairs.aboard import take_aboard
from headrace.local.repairs.parts import Backoff
from headrace.local.repairs.supervise import Supervisor
from headrace.local.run_state import Phase, RunState, load_run, note_left_out, save_run
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain
from tests.support.models import mlp_artifact
from tests.support.sealed import OwnKeys, key_in, sealed_copy


def aboard(folder: Path, model: str, artifact: Path) -> Path:
    """The version as an image has it, with the model's document."""
    (folder / model).mkdir(parents=True, exist_ok=True)
    (folder / model / DOCUMENT).write_text(ModelDocument(name=model).model_dump_json())
    return artifact.rename(folder / model / artifact.name)


@pytest.fixture
def brain() -> Brain:
    return Brain()


@pytest.fixture
def client(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> ControlClient:
    ask_brain(brain, monkeypatch)
    return ControlClient.from_environment()


def test_the_others_are_served_and_what_was_left_out_is_taken_once_it_can_be(
    tmp_path: Path, client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, image = OwnKeys(tmp_path / "keys", monkeypatch), tmp_path / "image"
    holder = key_in(tmp_path, "elsewhere")
    for model in ("apples", "damsons"):
        aboard(image, model, Path(mlp_artifact(tmp_path / model, model=model)[0]))
    plain = Path(mlp_artifact(tmp_path / "cherries", model="cherries")[0])
    sealed = aboard(image, "cherries", Path(sealed_copy(plain, tmp_path / "sealed", holder).uri))
    damaged = aboard(image, "bananas", Path(mlp_artifact(tmp_path / "bananas", model="bananas")[0]))
    whole = (damaged / "model.onnx").read_bytes()
    (damaged / "model.onnx").write_bytes(whole[:-1] + b"?")
    (image / "elder").mkdir()
    (image / "elder" / DOCUMENT).write_text("{}")

    said: list[str] = []
    left_out = take_aboard(client, image, said.append)

    assert [line for line in said if "version 1" in line] == [
        f"{model}: version 1 of the image" for model in ("apples", "damsons")
    ]
    bananas, cherries, elder = left_out
    assert bananas.startswith(f"bananas, version {damaged.name[:12]} of the image: {damaged}/model.onnx: model.onnx is damaged")
    assert "no key of this machine opens it" in cherries
    assert f"it is sealed for {holder.key_id}: name that key in HEADRACE_KEYS" in cherries
    assert elder.startswith("elder of the image: ")
    assert "is no Model's document" in elder
    assert {model.name: len(model.versions) for model in client.status().models} == {
        "apples": 1,
        "bananas": 0,
        "cherries": 0,
        "damsons": 1,
    }

    (tmp_path / "elsewhere.key").rename(keys.folder / "elsewhere.key")
    (damaged / "model.onnx").write_bytes(whole)
    said.clear()
    assert take_aboard(client, image, said.append) == (elder,)
    assert said == ["bananas: version 1 of the image", "cherries: version 1 of the image"], "the others are not looked at again"
    (cherry,) = client.model("cherries").versions
    assert cherry.artifact_uri == str(sealed)


def test_what_somebody_has_removed_does_not_come_back_for_what_is_left_out(
    tmp_path: Path, brain: Brain, client: ControlClient
) -> None:
    """Also of a store in which an older release, or a person, had registered it."""
    image = tmp_path / "image"
    first = aboard(image, "apples", Path(mlp_artifact(tmp_path / "1", model="apples")[0]))
    damaged = aboard(image, "apples", Path(mlp_artifact(tmp_path / "2", model="apples", seed=1)[0]))
    (damaged / "model.onnx").write_bytes(b"?")
    manifest = read_manifest(first)
    by_hand = {"artifact_uri": str(first), "digest": first.name, "engine": "onnx"}
    brain.call("version.register", model="apples", signature=manifest.signature.model_dump(mode="json"), **by_hand)

    assert len(take_aboard(client, image, lambda _: None)) == 1
    assert client.model("apples").serving is not None
    brain.call("model.delete", model="apples")
    brain.tick(200)
    said: list[str] = []
    assert len(take_aboard(client, image, said.append)) == 1
    assert [line.partition(": ")[2][13:] for line in said] == [
        "of the image stays away: it was registered here at an earlier start, and somebody has removed it since"
    ]
    assert brain.store.load().models == {}


def test_what_was_left_out_is_written_down_by_nobody_while_another_is_at_work(tmp_path: Path) -> None:
    """`headrace down` in between: its run.json must not be there again."""
    home = Home(tmp_path / "home")
    save_run(home, running(home))
    with only_one(home), pytest.raises(Busy):
        note_left_out(home, ("cherries: no key",))
    note_left_out(home, ("cherries: no key",))
    state = load_run(home)
    assert state is not None
    assert state.left_out == ("cherries: no key",)


def test_what_the_controller_refuses_is_left_out_and_one_that_is_away_ends_it(
    tmp_path: Path, client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("apples", "bananas"):
        aboard(tmp_path / "image", model, Path(mlp_artifact(tmp_path / model, model=model)[0]))
    register, answers = client.register_version, list[HeadraceError]()

    def answer(request: object) -> object:
        if answers:
            raise answers.pop()
        return register(request)  # type: ignore[arg-type]

    monkeypatch.setattr(client, "register_version", answer)
    answers.append(Unreachable("is away"))
    with pytest.raises(Unreachable):
        take_aboard(client, tmp_path / "image", lambda _: None)
    answers.append(HeadraceError("refused by the signing policy: it is not signed", remedy="sign it"))
    (left_out,) = take_aboard(client, tmp_path / "image", lambda _: None)
    assert left_out.startswith("apples, version ")
    assert left_out.endswith("refused by the signing policy: it is not signed (sign it)"), left_out
    assert len(client.model("bananas").versions) == 1


def test_a_supervisor_says_what_is_left_out_and_tries_it_again_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What serves is left alone, and somebody's documents are not applied again once all is there."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    settings = read_settings()
    left, seen = [("cherries: no key",), ("cherries: no key",), ()], list[str]()

    def up_once(supervisor: Supervisor) -> None:
        seen.append(supervisor._options.models)
        if len(seen) == 1:
            save_run(settings.home, running(settings.home))
        note_left_out(settings.home, left[len(seen) - 1])

    monkeypatch.setattr(Supervisor, "_up_once", up_once)
    monkeypatch.setattr("headrace.local.repairs.supervise.look", lambda *_, **__: ())
    monkeypatch.setattr("headrace.local.repairs.supervise.LOOK_EVERY_S", 0.001)
    monkeypatch.setattr("headrace.local.repairs.supervise.ABOARD_AGAIN", Backoff(first_s=0.01, most_s=0.01))
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)

    supervisor = Supervisor(UpOptions(models="/image"), settings, say)
    monkeypatch.setattr(supervisor, "_look", lambda *_: supervisor.stop() if len(seen) == len(left) else None)
    assert supervisor.run()
    assert seen == ["/image"] * 3
    assert said == ["left out: cherries: no key; tries again in 0 s"] * 2
    assert supervisor._options.models == ""
    state = load_run(settings.home)
    assert state is not None
    assert state.left_out == ()


def running(home: Home) -> RunState:
    home.make()
    return RunState(run_id="r", phase=Phase.RUNNING, started_s=time.time(), owns_ray=False)
