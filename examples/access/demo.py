"""`python -m examples.access.demo`: two teams, their keys, what each is told; exit code 1 where anything is not as said."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import httpx

from examples.access.calls import Call, Place, Rows, Told, by_grpc, by_http, by_httpx
from examples.access.certificates import write_certificates
from examples.access.issuer import TokenIssuer, issuing
from examples.local_run import Walkthrough, begin_afresh, headrace, headrace_as, running

FOLDER = Path(__file__).parent
OUT = FOLDER / "out"
TLS = OUT / "tls"
ISSUER_IN_DOCUMENT = "http://127.0.0.1:8200"
AGREEING = "all labels are the model's own"
GRACE_S, REVOKED_WITHIN_S, TRIES = 5.0, 2.0, 50

HTTPX, HTTP, GRPC = "httpx", "tritonclient HTTP", "tritonclient gRPC"
WAYS: Mapping[str, tuple[Call, str]] = {HTTPX: (by_httpx, "200"), HTTP: (by_http, "200"), GRPC: (by_grpc, "OK")}
REFUSALS = {HTTPX: ("401", "404"), HTTP: ("401", "404"), GRPC: ("UNAUTHENTICATED", "NOT_FOUND")}


class Walk(Walkthrough):
    """All steps."""

    def __init__(self, place: Place, issuer: TokenIssuer) -> None:
        super().__init__()
        self.place, self.issuer = place, issuer
        self.clinic = Rows.of("clinic-tumours", "cells", OUT / "clinic" / "test.npz")
        self.cellar = Rows.of("cellar-wine", "wine", OUT / "cellar" / "test.npz")

    def go(self) -> None:
        """From the first key to its end."""
        clinic = _key("key", "create", "clinic", "--role", "score", "--role", "view", "--model", "clinic-*", "--expires", "90d")
        cellar = _key("key", "create", "cellar")
        self.own_models(clinic, cellar)
        self.the_others_model(clinic)
        self.without_tls()
        self.lists({"clinic": clinic, "cellar": cellar})
        self.quota(cellar)
        self.certificate()
        self.token(clinic)
        self.revoke(self.rotate(clinic))

    def own_models(self, clinic: str, cellar: str) -> None:
        """The clinic's rights stand on its key, the cellar's in the document."""
        _title("Each team scores its own model")
        for name, rows, key in (("clinic", self.clinic, clinic), ("cellar", self.cellar, cellar)):
            for way, (call, good) in WAYS.items():
                told = call(self.place, rows, key)
                self.see(f"{name} by {way}", f"{told.status}, {_agreeing(told, rows)}", f"{good}, {AGREEING}")

    def the_others_model(self, clinic: str) -> None:
        """It is answered as one that does not exist."""
        _title("The other team's model, and no key")
        nobodys = replace(self.cellar, model="no-such-model")
        for way, (call, _) in WAYS.items():
            no_key, no_model = REFUSALS[way]
            other, none = (call(self.place, rows, clinic) for rows in (self.cellar, nobodys))
            self.see(f"the cellar's with the clinic's key, by {way}", other.status, no_model)
            print(f"         {other.words}")
            alike = (none.status, none.words.replace(nobodys.model, self.cellar.model)) == (other.status, other.words)
            self.see("  answered as one that there is not", alike, True)
            self.see(f"without a key, by {way}", call(self.place, self.cellar, None).status, no_key)

    def without_tls(self) -> None:
        """Nobody is heard in clear, and nobody has to believe a door whose authority he does not know."""
        _title("TLS")
        self.no_connection("in clear", "http")
        self.no_connection("by who does not know the authority", "https")

    def closed(self) -> None:
        """After `headrace down`."""
        self.no_connection("the door, once it is down", "https", self.place.context())

    def no_connection(self, what: str, scheme: str, trusting: ssl.SSLContext | bool = True) -> None:
        """Whoever calls so gets nowhere."""
        url = f"{scheme}://{self.place.http}/v2/health/live"
        try:
            found = f"HTTP {httpx.get(url, verify=trusting, trust_env=False, timeout=60).status_code}"
        except httpx.TransportError as error:
            found = "no connection"
            print(f"         {error}")
        self.see(what, found, "no connection")

    def lists(self, keys: Mapping[str, str]) -> None:
        """Each team sees its own, and whoever started it all of them."""
        _title("What each sees")
        for name, rows in (("clinic", self.clinic), ("cellar", self.cellar)):
            self.see(f"{name} sees", _models(headrace_as(name, keys[name], "models", "--json").stdout), [rows.model])
        self.see("you see", _models(headrace("models", "--json", show=False)), [self.cellar.model, self.clinic.model])

    def quota(self, cellar: str) -> None:
        """Four calls a second, as the document says."""
        _title("A quota")
        one = replace(self.cellar, values=self.cellar.values[:1], own=self.cellar.own[:1])
        for way, refused in ((HTTPX, "429"), (GRPC, "RESOURCE_EXHAUSTED")):
            call, good = WAYS[way]
            told = _until(lambda call=call: call(self.place, one, cellar), lambda told, good=good: told.status != good)
            self.see(f"calls as fast as they go, by {way}", told.status, refused)
            print(f"         {told.words}")
        told = _until(lambda: by_httpx(self.place, one, cellar), lambda told: told.status != "200")
        wait_s = (told.headers or {}).get("retry-after")
        self.see("Retry-After", wait_s, "1")
        time.sleep(float(wait_s or 0))  # as one is told
        self.see("after so long", by_httpx(self.place, one, cellar).status, "200")

    def certificate(self) -> None:
        """A job that has a certificate needs no key."""
        _title("A client certificate")
        for rows, by_way in ((self.clinic, ("200", "OK")), (self.cellar, ("404", "NOT_FOUND"))):
            for (way, call), wanted in zip({HTTPX: by_httpx, GRPC: by_grpc}.items(), by_way, strict=True):
                told = call(self.place, rows, certificate=TLS / "nightly.pem")
                self.see(f"nightly.clinic.example asks {rows.model} by {way}", told.status, wanted)

    def token(self, clinic: str) -> None:
        """Who is in the group may operate, and no more; who only scores may not."""
        _title("An OpenID Connect token")
        scale = ("scale", self.clinic.model, "2")
        for who, token, wanted in (
            ("ann", self.issuer.token("ann"), 0),
            ("bob", self.issuer.token("bob"), 3),
            ("clinic", clinic, 6),
        ):
            done = headrace_as(who, token, *scale)
            print("".join(f"         {line}\n" for line in (done.stdout + done.stderr).splitlines()), end="")
            self.see(f"{who}'s exit code", done.returncode, wanted)
        self.see("ann scores", by_httpx(self.place, self.clinic, self.issuer.token("ann")).status, "403")

    def rotate(self, old: str) -> str:
        """Both keys hold for the grace, then the new one alone. Returns it."""
        _title("Another key")
        new = _key("key", "rotate", "clinic", "--grace", f"{GRACE_S:.0f}s")
        rotated_s = time.monotonic()
        for what, key in (("new", new), ("old", old)):
            self.see(f"the {what} key, meanwhile", by_httpx(self.place, self.clinic, key).status, "200")
        ended = self._refused_within("the old key ends", old, rotated_s, GRACE_S + REVOKED_WITHIN_S)
        self.see("the old key", ended.status, "401")
        self.see("the new key", by_httpx(self.place, self.clinic, new).status, "200")
        return new

    def revoke(self, key: str) -> None:
        """No gateway takes it any more, by no way in."""
        _title("No key any more")
        headrace("key", "revoke", "clinic")
        ended = self._refused_within("the key ends", key, time.monotonic(), REVOKED_WITHIN_S)
        self.see("by httpx", ended.status, "401")
        self.see("by gRPC", by_grpc(self.place, self.clinic, key).status, "UNAUTHENTICATED")

    def _refused_within(self, what: str, key: str, begun_s: float, limit_s: float) -> Told:
        """Calls until it is refused, for twice as long as it may take."""
        ends_s = begun_s + 2 * limit_s
        while (told := by_httpx(self.place, self.clinic, key)).status == "200" and time.monotonic() < ends_s:
            pass
        took_s = time.monotonic() - begun_s
        self.see(f"{what} after {took_s:.2f} s, and so within {limit_s:g} s", took_s <= limit_s, True)
        return told


def main() -> int:
    """All of it. Returns 0 where everything was as said."""
    started_s = time.monotonic()
    begin_afresh(OUT)
    write_certificates(TLS)
    with issuing() as issuer:
        document = (FOLDER / "project" / "access.yaml").read_text(encoding="utf-8")
        (OUT / "access.yaml").write_text(document.replace(ISSUER_IN_DOCUMENT, issuer.url), encoding="utf-8")
        files = {"--access": OUT / "access.yaml", "--tls-cert": TLS / "door.pem", "--tls-key": TLS / "door.key"}
        files["--client-ca"] = TLS / "ca.pem"
        with running(OUT, *(str(word) for pair in files.items() for word in pair)) as addresses:
            for team in ("clinic", "cellar"):
                headrace("build", str(FOLDER / "project" / f"{team}.yaml"))
            headrace(
                "apply", *(word for team in ("clinic", "cellar") for word in ("-f", str(FOLDER / "project" / f"{team}.yaml")))
            )
            place = Place(addresses["http"].removeprefix("https://"), addresses["grpc"], TLS / "ca.pem")
            walk = Walk(place, issuer)
            walk.go()
    walk.closed()
    return walk.end(started_s)


def _title(text: str) -> None:
    print(f"\n{text}", flush=True)


def _key(*command: str) -> str:
    """What such a command prints once."""
    print(f"$ headrace {' '.join(command)}", flush=True)
    return headrace(*command, show=False).strip()


def _models(printed: str) -> list[str]:
    return sorted(model["name"] for model in json.loads(printed)["models"])


def _agreeing(told: Told, rows: Rows) -> str:
    return AGREEING if told.labels == rows.own else told.words or "other labels than the model's own"


def _until(call: Callable[[], Told], done: Callable[[Told], bool]) -> Told:
    """What the last of at most so many calls was told."""
    for _ in range(TRIES - 1):
        if done(told := call()):
            return told
    return call()


if __name__ == "__main__":
    sys.exit(main())
