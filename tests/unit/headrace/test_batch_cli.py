"""`headrace batch` over a control API that a mock transport answers, and workers in this process."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import pytest

import headrace.cli.batch as cli
from cluster.commands.feeds import FeedList, FeedView, FireView, ScheduleView
from cluster.commands.versions import VersionView
from cluster.control_plane import ControlPlane
from cluster.errors import NoCapacity, Unreachable
from consumers.batch.run import RunProgress, Watcher, Workforce
from consumers.batch.score.inline import inline_workforce
from consumers.batch.spec import BatchSpec
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from deployments.control.fake_control import FakeControlPlane
from deployments.keys.ring import VARIABLE
from deployments.privacy import parquet
from deployments.serving.fake_fleet import FakeFleet
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.client import ControlClient
from headrace.local.home import Settings
from tests.support.batch_parts import digits_pin, engine_scorer, images, published, spec_of, write_dataset, write_file
from tests.unit.keys.test_keys import pair_in

Answer = Callable[[str, dict[str, Any]], Any]


@pytest.fixture
def spec(tmp_path: Path) -> BatchSpec:
    write_dataset(tmp_path / "in", files=1)
    return spec_of(tmp_path / "in", tmp_path / "out")


@pytest.fixture
def acts() -> list[dict[str, Any]]:
    """What the audit was told that is done by hand."""
    return []


@pytest.fixture(autouse=True)
def _control(tmp_path: Path, spec: BatchSpec, acts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    pin = digits_pin(tmp_path)

    def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        match request.url.path.removeprefix("/control/"), asked:
            case "feed.show", {"name": "digits"}:
                return httpx.Response(200, text=view().model_dump_json())
            case "feed.pause", {"kind": "batch", "name": "digits"}:
                return httpx.Response(200, text=view("paused").model_dump_json())
            case "feed.resume", {"kind": "batch", "name": "digits"}:
                return httpx.Response(200, text=view().model_dump_json())
            case "batch.cancel", {"name": "digits"}:
                ended = FireView(at_s=0.0, state="cancelled", job="hand-digits-1", attempt=0, ended_s=1.0, reason="", by="ann")
                return httpx.Response(200, text=view().model_copy(update={"by_hand": (ended,)}).model_dump_json())
            case "act.tell", _:
                acts.append(asked)
                return httpx.Response(200, text="{}")
            case "feed.list", _:
                return httpx.Response(200, text=FeedList(feeds=(view(),)).model_dump_json())
            case "version.resolve", {"version": None | 1}:
                version = VersionView(
                    model="digits",
                    version=1,
                    artifact_uri=pin.artifact_uri,
                    digest=pin.digest,
                    engine="onnx",
                    signature=pin.signature,
                    created_s=0,
                )
                return httpx.Response(200, text=version.model_dump_json())
        return httpx.Response(
            404, json={"error": {"kind": "NotFound", "what": "no such thing", "where": str(asked), "remedy": ""}}
        )

    def view(wanted: Literal["running", "paused"] = "running") -> FeedView:
        fire = FireView(at_s=0.0, state="failed", job="sched-digits-1", attempt=2, ended_s=60.0, reason="the disk is full")
        schedule = ScheduleView(cron="0 1 * * *", timezone="Europe/Berlin", next_s=(3600.0,), fires=(fire,))
        return FeedView(
            schedule=schedule if wanted == "running" else schedule.model_copy(update={"next_s": ()}),
            kind="batch",
            name="digits",
            model="digits",
            wanted=wanted,
            status="",
            replicas=0,
            message="",
            spec=spec.model_dump(mode="json"),
        )

    @contextmanager
    def inline() -> Iterator[tuple[Workforce, ControlPlane]]:
        yield inline_workforce(engine_scorer), FakeControlPlane(FakeFleet())

    client = lambda *_: ControlClient("http://gateway", transport=httpx.MockTransport(answer))  # noqa: E731
    monkeypatch.setattr(cli.ControlClient, "from_environment", staticmethod(client))
    monkeypatch.setattr(cli, "_on_ray", inline)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_run_status_and_ls_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "status", "digits", "--json"]) == 0
    assert told(capsys)["state"] == "never run"
    assert main(["batch", "run", "digits", "--json"]) == 0
    manifest = told(capsys)
    assert (manifest["written"], manifest["version"]) == (300, 1)
    assert published(tmp_path / "out").num_rows == 300
    assert main(["batch", "status", "digits", "--json"]) == 0
    status = told(capsys)
    assert (status["state"], status["rows"], status["units_done"], status["rows_quarantined"]) == ("published", 300, 3, 0)
    assert main(["batch", "ls", "--json"]) == 0
    assert told(capsys)["batches"][0]["last"]["run_id"] == manifest["run_id"]


def test_a_batch_whose_output_is_away_hides_no_other(
    spec: BatchSpec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(history: RunHistory) -> Any:
        if "gone" in history.home.path:
            raise OSError("timed out")
        return whole(history)

    whole, feeds = RunHistory.all, ControlClient.feeds
    away = spec.model_copy(update={"output": spec.output.model_copy(update={"path": "/gone/out"})})
    monkeypatch.setattr(RunHistory, "all", read)
    monkeypatch.setattr(
        ControlClient,
        "feeds",
        lambda client: (
            feeds(client)[0].model_copy(update={"name": "away", "spec": away.model_dump(mode="json")}),
            *feeds(client),
        ),
    )
    assert main(["batch", "run", "digits", "--json"]) == 0
    capsys.readouterr()
    assert main(["batch", "ls", "--json"]) == 0
    first, second = told(capsys)["batches"]
    assert (first["name"], first["last"]) == ("away", None)
    assert first["trouble"].startswith("/gone/out: timed out")
    assert (second["name"], second["last"]["state"]) == ("digits", "published")
    assert main(["batch", "ls"]) == 0
    assert "timed out" in capsys.readouterr().out


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "run", "digits"]) == 0
    assert "300 rows scored by digits version 1" in capsys.readouterr().out
    assert main(["batch", "status", "digits"]) == 0
    assert "published" in capsys.readouterr().out
    assert main(["batch", "ls"]) == 0
    assert "published" in capsys.readouterr().out


def test_the_schedule_is_shown_in_its_own_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["batch", "ls"]) == 0
    assert "1970-01-01 02:00 CET" in capsys.readouterr().out
    assert main(["batch", "status", "digits"]) == 0
    shown = capsys.readouterr().out
    for words in ("0 1 * * * (Europe/Berlin)", "failed", "the disk is full", "sched-digits-1", "to come"):
        assert words in shown
    assert main(["batch", "ls", "--json"]) == 0
    assert told(capsys)["batches"][0]["schedule"]["next_s"] == [3600.0]
    assert main(["batch", "pause", "digits"]) == 0
    assert capsys.readouterr().out == "digits: paused\n"
    assert main(["batch", "unpause", "digits", "--json"]) == 0
    assert told(capsys)["schedule"]["next_s"] == [3600.0]


def test_what_the_cluster_runs_is_cancelled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "cancel", "digits", "--json"]) == 0
    assert [(fire["state"], fire["by"]) for fire in told(capsys)["by_hand"]] == [("cancelled", "ann")]
    assert main(["batch", "cancel", "digits"]) == 0
    assert capsys.readouterr().out == "digits: its run is being ended\n"
    assert main(["batch", "cancel", "nothing"]) == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "nothing"], ExitCode.NOT_FOUND),
        (["run", "digits", "--version", "9"], ExitCode.NOT_FOUND),
        (["run", "digits", "--fresh", "--or-resume"], ExitCode.BAD_INPUT),
        (["run", "digits", "--as-of", "yesterday"], ExitCode.BAD_INPUT),
        (["resume", "digits"], ExitCode.NOT_FOUND),
    ],
)
def test_failures_are_one_message_and_make_nothing(tmp_path: Path, words: list[str], code: ExitCode) -> None:
    assert main(["batch", *words]) == code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("word", ["run", "resume"])
def test_the_audit_has_what_a_run_that_failed_has_scored(
    spec: BatchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    control = FakeControlPlane(FakeFleet())

    @contextmanager
    def on_ray() -> Iterator[tuple[Workforce, ControlPlane]]:
        yield inline_workforce(engine_scorer), control

    def fails(*_: Any, watch: Watcher, **__: Any) -> None:
        for done in (0, 100):
            watch(RunProgress(3, done // 100, 300, done, 0, None, None))
        raise NoCapacity("the disk is full", where="here", remedy="make room")

    record = SimpleNamespace(spec=spec, pinned=digits_pin(tmp_path / "other"))
    monkeypatch.setattr(cli, "_on_ray", on_ray)
    monkeypatch.setattr(cli, {"run": "begin"}.get(word, word), fails)
    monkeypatch.setattr(cli.RunHistory, "unfinished", lambda _: SimpleNamespace(record=lambda: record))
    assert main(["batch", word, "digits"]) == ExitCode.UNAVAILABLE
    documents = [json.loads(one.document) for one in control.controller._store.audit_records(0, 100)]
    assert [(one["event"], one["actor"], one["detail"].get("rows")) for one in documents if one["event"] == "used"] == [
        ("used", "batch digits", 100)
    ]


def test_quarantined_rows_are_shown_by_reason(
    tmp_path: Path, spec: BatchSpec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["batch", "quarantine", "digits"]) == ExitCode.NOT_FOUND
    write_file(tmp_path / "in/bad.parquet", [7001], [None], note=["[/data]"])
    assert main(["batch", "run", "digits"]) == 0
    assert "`headrace batch quarantine` shows some" in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")  # a path may be longer than a screen: it is told whole
    assert main(["batch", "quarantine", "digits"]) == 0
    shown = re.sub(r"[ \n]*│[ \n]*", "", capsys.readouterr().out)
    for words in ("column image is null", "id: 7001", "note: [/data]", "bad.parquet"):
        assert words in shown
    run_id = RunHistory(locate(spec.output.path)).all()[0].run_id
    assert main(["batch", "quarantine", "digits", "--run", run_id, "--json"]) == 0
    found = told(capsys)
    assert (found["run_id"], found["rows"], found["reasons"][0]["samples"][0]["id"]) == (run_id, 1, "7001")
    # Encrypted, they are shown with the key; without it the command says which.
    pair_in(tmp_path / "keys", "prod")
    monkeypatch.setenv(VARIABLE, f"file:{tmp_path / 'keys'}")
    object.__setattr__(spec.output, "encrypt", "prod")
    assert main(["batch", "run", "digits"]) == 0
    capsys.readouterr()
    assert main(["batch", "quarantine", "digits", "--json"]) == 0
    assert told(capsys)["rows"] == 1
    (tmp_path / "keys/prod.key").unlink()
    parquet._factory.cache_clear()
    assert main(["batch", "quarantine", "digits"]) == ExitCode.REFUSED
    assert "it was encrypted for prod" in capsys.readouterr().err


def test_who_looks_at_quarantined_rows_stands_in_the_audit_and_else_sees_none(
    tmp_path: Path,
    spec: BatchSpec,
    acts: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_file(tmp_path / "in/bad.parquet", [7001], [None], note=["[/data]"])
    assert main(["batch", "run", "digits"]) == 0
    run_id = RunHistory(locate(spec.output.path)).all()[0].run_id
    monkeypatch.setenv("HEADRACE_URL", "http://gateway")
    capsys.readouterr()
    assert main(["batch", "quarantine", "digits"]) == 0
    told = [(one["act"], one["stage"], one["model"], one["name"], one["to"], one["rows"]) for one in acts]
    about = ("batch.quarantine by hand", "digits", "digits", run_id)
    assert told == [(about[0], "begun", *about[1:], None), (about[0], "done", *about[1:], 1)]
    assert "7001" in capsys.readouterr().out

    def away(*_: Any) -> None:
        raise Unreachable("the store does not answer", where="store", remedy="check that it runs")

    monkeypatch.setattr("headrace.by_hand._tell", away)
    assert main(["batch", "quarantine", "digits"]) == ExitCode.UNAVAILABLE
    assert "7001" not in capsys.readouterr().out


def test_a_file_instead_of_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "batch.yaml"
    file.write_text("kind: Batch\nname: other\nmodel: digits\ninput: {path: in, passthrough: [id]}\noutput: {path: out2}\n")
    assert main(["batch", "run", str(file), "--json"]) == 0
    assert told(capsys)["output"] == str(tmp_path / "out2")
    assert published(tmp_path / "out2").column_names == ["id", "probabilities", "model_version"]


def test_detached_the_cluster_gets_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[tuple[Sequence[str], str]] = []

    def submit(_settings: Settings, arguments: Sequence[str], *, job: str) -> str:
        handed.append((arguments, job))
        return "http://dashboard"

    monkeypatch.setattr(cli, "submit_command", submit)
    words = ["batch", "run", "digits", "--version", "1", "--as-of", "2026-11-23", "--or-resume"]
    assert main([*words, "--detach", "--json"]) == ExitCode.OK
    assert handed[0][0] == [*words, "--json"]
    assert told(capsys) == {"name": "digits", "job": handed[0][1], "dashboard": "http://dashboard"}
    assert handed[0][1].startswith("batch-digits-")
    assert not (tmp_path / "out").exists()


def test_a_torn_file_is_named_and_leaves_what_was_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tmp_path / "in/bad.parquet", range(1000, 3000), [None, *images(1999)])
    victim = tmp_path / "in/bad.parquet"
    whole = victim.read_bytes()
    assert main(["batch", "run", "digits", "--json"]) == 0
    capsys.readouterr()
    victim.write_bytes(whole[:-100])
    assert main(["batch", "run", "digits", "--json"]) == ExitCode.BAD_INPUT
    assert "bad.parquet" in capsys.readouterr().err
    assert published(tmp_path / "out").num_rows == 2299


def test_an_applied_batch_is_meant_where_a_folder_has_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/digits").mkdir(parents=True)
    (tmp_path / "here/other").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["batch", "run", "digits", "--json"]) == 0
    assert told(capsys)["written"] == 300
    assert main(["batch", "run", "other"]) == ExitCode.NOT_FOUND
    assert "write ./other" in capsys.readouterr().err


def test_files_that_are_no_data_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in/_SUCCESS").touch()
    assert main(["batch", "run", "digits"]) == 0
    assert "1 files beside the data were left alone" in capsys.readouterr().out
