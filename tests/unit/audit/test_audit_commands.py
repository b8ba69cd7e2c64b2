"""The command line over an audit: listed, exported, pruned, kept elsewhere, verified."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.audit.checkpoint import verifier_key
from cluster.commands.watch.whole_audit import AuditRecords
from cluster.errors import BadInput
from headrace.audit.key import audit_signer
from headrace.cli.watch import audit
from tests.support.brain import SIGNER
from tests.unit.audit.test_audit_proof import Source
from tests.unit.audit.test_audit_prune import KEY, brain_with
from tests.unit.audit.test_uses import ONE


class Client(Source):
    """Stands for the client, over the same audit however often it is opened."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to close."""

    def audit_records(self, first: int) -> AuditRecords:
        return AuditRecords.model_validate(self.brain.call("audit.list", first=first))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    client.act(6)
    monkeypatch.setattr(audit.ControlClient, "from_environment", lambda: client)
    return client


def run(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(audit.app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_uses_are_listed_where_they_are_asked_for(client: Client) -> None:
    client.brain.controller.push(ONE)
    events = {record["event"] for record in run("ls")["records"]}
    assert "used" not in events
    assert {"key created", "first use", "credential refused"} <= events
    assert [one["detail"]["calls"] for one in run("ls", "--uses", "--by", "key team", "--limit", "1")["records"]] == [13]


def test_old_records_go_and_the_rest_is_listed_and_verified(client: Client, tmp_path: Path) -> None:
    gone = run("prune", str(tmp_path), "--keep-days", "0")["pruned"]
    assert gone == client.audit_checkpoint().first > 6
    assert [one["event"] for one in run("ls")["records"]] == ["pruned"]
    run("export", str(tmp_path))
    assert run("verify", str(tmp_path), "--key", KEY) == {"records": gone + 1, "checkpoints": 2, "unproven": 0, "first": 0}


def test_a_checkpoint_is_printed_or_kept(client: Client, tmp_path: Path) -> None:
    note = client.audit_checkpoint().note
    assert run("checkpoint") == {"records": client.size, "note": note, "kept": []}
    (kept,) = run("checkpoint", "--to", str(tmp_path))["kept"]
    assert Path(kept).read_text() == note


def test_keys_that_signed_before_are_given_by_a_file(client: Client, tmp_path: Path) -> None:
    folder, known = tmp_path / "kept", tmp_path / "known.pub"
    run("export", str(folder))
    moved = audit_signer(tmp_path / "home" / "key")
    client.brain = brain_with(moved, client.brain)
    client.brain.tick()
    with pytest.raises(BadInput, match="not signed by that key"):
        run("export", str(folder))
    known.write_text(f"{KEY}\n")
    assert run("export", str(folder), "--known", str(known))["added"] == 1
    known.write_text(f"{KEY}\n{verifier_key(moved.name, moved.public)}\n")
    assert run("verify", str(folder), "--key", str(known))["unproven"] == 0
    assert SIGNER.name != moved.name
