"""What the demo does, a function a step: each holds what it sees against what it should be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson

from cluster.commands.versions import RegisterVersion
from cluster.errors import HeadraceError
from deployments.artifacts.manifest import BESIDE, read_manifest
from deployments.keys.ring import VARIABLE
from examples.custody.tastings import CUSTOMERS, Answer, broker, opened, read, send, wines
from examples.custody.train import write_rows
from examples.local_run import HEADRACE, Walkthrough, headrace
from headrace.client import ControlClient

FOLDER = Path(__file__).parent
OUT = FOLDER / "out"
DOCUMENT, STREAM = (str(FOLDER / "project" / name) for name in ("wine.yaml", "stream.yaml"))
SEALED_AND_SIGNED = ("--seal", "prod", "--sign", "release")
MODEL = "wine"
WAIT_S = 60.0


class Custody(Walkthrough):
    """What is done with the wine, and seen."""

    def refused(self, what: str, words: str, *command: str, **variables: str) -> None:
        """A command that must fail, in these words."""
        done = _try(*command, **variables)
        print("".join(f"         {line}\n" for line in done.stderr.splitlines()[-3:]), end="")
        self.see(what, (done.returncode != 0, words in done.stderr), (True, True))


def seal_and_sign(walk: Custody) -> None:
    """A key that seals, a version that is sealed and signed, and what anybody can see of it."""
    write_rows(OUT, most=60)
    headrace("sealing", "new", "prod")
    headrace("build", DOCUMENT, *SEALED_AND_SIGNED)
    headrace("apply", "-f", DOCUMENT)
    headrace("model", "verify", f"{MODEL}:1")
    told = _json("model", "verify", f"{MODEL}:1", "--json")
    walk.see("it was made from", sorted(told["materials"]), ["evaluation:3", "source:1", "training:2"])
    walk.see("its trees can be read in its files", _tells_trees(Path(told["artifact_uri"])), False)
    (OUT / "nobody").mkdir()
    no_keys = {VARIABLE: f"file:{OUT / 'nobody'}"}
    walk.refused("without the key nobody opens it", "no key of this machine opens it", "model", "show", MODEL, "1", **no_keys)
    walk.see("version 1 serves", _until(lambda: _stable() == 1), True)


def refuse_unsigned(walk: Custody) -> None:
    """More wines, and somebody forgets to sign."""
    write_rows(OUT, most=200)
    walk.refused("nothing is built without a key", "takes no version that is not signed", "build", DOCUMENT)
    headrace("build", DOCUMENT, "--output", str(OUT / "elsewhere"))
    (folder,) = (OUT / "elsewhere" / MODEL).iterdir()
    walk.see("nor is it sealed: its trees can be read", _tells_trees(folder), True)
    walk.see("made elsewhere, it is not registered", "it is not signed" in _registering(folder), True)
    walk.see("versions", _versions(), [1])


def refuse_older(walk: Custody) -> None:
    """Who can write the artifacts' folder, but has no key, brings an older signature; then the right one comes back."""
    headrace("build", DOCUMENT, *SEALED_AND_SIGNED)
    older, newer = (Path(_json("model", "verify", f"{MODEL}:{number}", "--json")["artifact_uri"]) for number in (1, 2))
    kept = {name: (newer / name).read_bytes() for name in BESIDE}
    for name in BESIDE:
        shutil.copyfile(older / name, newer / name)
    walk.refused("version 1's signature says nothing of version 2", "is of another version", "model", "verify", f"{MODEL}:2")
    ended = _rollout_of_2()
    walk.see("a replica refuses it", (ended["state"], "refused by the signing policy" in ended["reason"]), ("rolled_back", True))
    print(f"         {ended['reason']}")
    walk.see("version 1 serves", _stable(), 1)
    for name, content in kept.items():
        (newer / name).write_bytes(content)
    walk.see("with its own, version 2 takes over", (_rollout_of_2()["state"], _stable()), ("promoted", 2))


def erase_a_subject(walk: Custody) -> None:
    """Two customers have their wines judged; then one is to be forgotten, also by who has kept the answers."""
    forgotten, other = CUSTOMERS
    headrace("sealing", "new", "people")
    headrace("apply", "-f", STREAM)
    send(broker())
    kept = read(broker())
    before = list(opened(kept))
    walk.see("opened, the model's own answers", before, _labels_by_http())
    headrace("erase", forgotten)
    after = list(opened(kept))
    for who, wanted in ((forgotten, [None] * len(_of(forgotten, kept, before))), (other, _of(other, kept, before))):
        walk.see(f"what opens of {who}", _of(who, kept, after), wanted)
    records = _json("audit", "ls", "--uses", "--limit", "1000", "--json")["records"]
    erased = [record["detail"]["subject"] for record in records if record["event"] == "subject erased"]
    walk.see("the audit has it, under a pseudonym", erased, sorted({one.pseudonym for one in kept if one.customer == forgotten}))
    walk.see("and not the name", forgotten in json.dumps(records), False)


def find_a_changed_record(walk: Custody) -> None:
    """The audit, taken out, and one word of it changed."""
    folder = OUT / "audit"
    headrace("audit", "export", str(folder))
    key = _json("audit", "key", "--json")["key"]
    headrace("audit", "verify", str(folder), "--key", key)
    (file,) = sorted(folder.glob("audit-*.jsonl"))[:1]
    lines = file.read_text(encoding="utf-8").splitlines()
    at = next(number for number, line in enumerate(lines) if "registered" in line)
    record = orjson.loads(lines[at])
    record["raw_data"] = record["raw_data"].replace("registered", "forgotten")
    file.write_text("\n".join([*lines[:at], orjson.dumps(record).decode(), *lines[at + 1 :]]) + "\n", encoding="utf-8")
    walk.refused("a changed record is found", "was changed", "audit", "verify", str(folder), "--key", key)


Step = Callable[[Custody], None]
STEPS: tuple[tuple[str, Step], ...] = (
    ("A version that is sealed and signed", seal_and_sign),
    ("One that is not", refuse_unsigned),
    ("An older signature", refuse_older),
    ("A customer who is forgotten", erase_a_subject),
    ("A changed record", find_a_changed_record),
)


def _tells_trees(version: Path) -> bool:
    """Whether any of its files has in clear what ONNX calls the trees of a model."""
    return any(b"TreeEnsemble" in file.read_bytes() for file in version.rglob("*") if file.is_file())


def _of(customer: str, answers: Sequence[Answer], labels: Sequence[int | None]) -> list[int | None]:
    return [label for answer, label in zip(answers, labels, strict=True) if answer.customer == customer]


def _labels_by_http() -> list[int]:
    """What the door answers of the wines that go through the stream."""
    url = _json("status", "--json")["addresses"]["http"]
    rows = wines()
    request = {"inputs": [{"name": "wine", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}]}
    answer = httpx.post(f"{url}/v2/models/{MODEL}/infer", json=request, timeout=60)
    outputs = {one["name"]: one["data"] for one in answer.raise_for_status().json()["outputs"]}
    labels: list[int] = outputs["label"]
    return labels


def _registering(folder: Path) -> str:
    """What the service says when a script registers the version in this folder; empty where it does."""
    manifest = read_manifest(folder)
    about = {"engine": manifest.engine, "signature": manifest.signature}
    try:
        with ControlClient.from_environment() as client:
            client.register_version(RegisterVersion(model=MODEL, artifact_uri=str(folder), digest=folder.name, **about))
    except HeadraceError as error:
        print(f"         error: {error}")
        return str(error)
    return ""


def _rollout_of_2() -> dict[str, Any]:
    """A rollout of version 2, once it has ended."""
    headrace("rollout", "start", MODEL, "--version", "2", "--plan", "instant")
    lines = headrace("rollout", "status", MODEL, "--watch", "--json", show=False).splitlines()
    ended: dict[str, Any] = json.loads(lines[-1])["rollout"]
    return ended


def _stable() -> int | None:
    return next(one["stable"] for one in _json("models", "--json")["models"] if one["name"] == MODEL)


def _versions() -> list[int]:
    (model,) = _json("models", "--json")["models"]
    return [one["version"] for one in model["versions"]]


def _json(*command: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(headrace(*command, show=False))
    return told


def _try(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HEADRACE), *command], capture_output=True, text=True, check=False, env=os.environ | variables)


def _until(seen: Callable[[], bool]) -> bool:
    ends_s = time.monotonic() + WAIT_S
    while not (found := seen()) and time.monotonic() < ends_s:
        time.sleep(0.5)  # as somebody who looks again
    return found
