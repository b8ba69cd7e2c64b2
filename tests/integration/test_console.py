"""The console in a real browser, over a real controller whose fleet is a fake."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from cluster.access.callers import Role, grant_of
from cluster.rollout.evidence import Counts, EvidenceBatch, EvidenceKey
from tests.support.browser import chromium, needs_chromium, visit
from tests.support.console_service import ConsoleService, console_service

pytestmark = [needs_chromium, pytest.mark.timeout(180)]

PLAN = {"steps": [{"weight": 10, "bake_s": 3600}, {"weight": 100, "bake_s": 3600}], "deadline_s": 7200}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def two_models(service: ConsoleService) -> None:
    """`digits`, with a rollout at 10 %, and `fraud`, which fails; `orders` is behind."""
    for name in ("digits", "fraud"):
        service.version(name, 1)
    stream = {"kind": "stream", "name": "orders", "model": "fraud", "spec": {}}
    service.brain.call("apply", models=[{"name": name, "rollout": PLAN} for name in ("digits", "fraud")], feeds=[stream])
    service.brain.tick(6)
    service.version("digits", 2)
    service.brain.tick(4)

    def goes_on() -> None:
        service.counted({"digits": (400, 0), "fraud": (400, 40)}, {"orders": (100, 1200)})
        evidence(service)

    for _ in range(30):
        service.brain.clock.now_s += 10
        goes_on()
        service.brain.controller.tick()
    service.goes_on = goes_on
    service.keys["home"] = service.home_key()


def evidence(service: ConsoleService) -> None:
    """Both versions answer some rows, and neither fails any."""
    service.brain.sequence += 1
    stage = service.brain.controller.table.routes["digits"].stage
    seen = {EvidenceKey("digits", stage, version): Counts(rows=20) for version in (1, 2)}
    service.brain.controller.push(EvidenceBatch("scorer", service.brain.sequence, seen))


@pytest.fixture(scope="module")
def service() -> Iterator[ConsoleService]:
    with console_service(two_models) as running:
        yield running


def test_an_operator_sees_what_is_wrong_and_pauses_a_rollout(service: ConsoleService, browser: Browser) -> None:
    with visit(browser, service.url) as seen:
        page = seen.page
        seen.go()
        expect(page.get_by_text("10 % of requests fail")).to_be_visible()
        expect(page.get_by_role("row", name="digits")).to_contain_text("v2 10 %")
        assert seen.violations() == []

        # Who brought no key sees why his buttons do nothing.
        page.get_by_role("link", name="digits version 1 → 2").click()
        expect(page.get_by_role("button", name="Pause")).to_be_disabled()
        expect(page.get_by_text("nobody is logged in")).to_be_visible()

        seen.log_in(service.keys["home"])
        cookie = page.context.cookies()[0]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console")
        assert service.keys["home"] not in cookie["value"]
        seen.go("#/rollout/digits")
        expect(page.get_by_role("img", name=re.compile("error rate over time"))).to_be_visible()
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("dialog")).to_contain_text("10 % of traffic stays with version 2")
        assert seen.violations() == []
        page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        expect(page.get_by_role("heading", name=re.compile("paused"))).to_be_visible()
        assert service.brain.rollout()["state"] == "paused"
        expect(page.get_by_role("row", name=re.compile("paused"))).to_contain_text("home")

        # What was decided on an older state is not done.
        page.get_by_role("button", name="Promote").click()
        service.brain.call("rollout.resume", model="digits", actor="ann")
        page.get_by_role("dialog").get_by_role("button", name="Promote").click()
        expect(page.get_by_role("alert")).to_contain_text("it has moved on")
        page.get_by_role("dialog").get_by_role("button", name="Close").click()
        assert service.brain.rollout()["ended_s"] is None


def test_the_page_is_served_under_a_policy_that_lets_in_nothing_else(service: ConsoleService) -> None:
    with httpx.Client(base_url=service.url, trust_env=False) as client:
        sent_on = client.get("/console")
        assert (sent_on.status_code, sent_on.headers["location"]) == (308, "console/")
        page = client.get("/console/")
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in page.headers["content-security-policy"]
        assert not re.search(r"<script>|<style|style=|onclick", page.text)
        again = client.get("/console/", headers={"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        named = set(re.findall(r'(?:src|href)="([^"]+)"', page.text))
        sizes = [len(client.get(f"/console/{name}").raise_for_status().content) for name in named]
        assert sum(sizes) < 300_000


@pytest.mark.proof
def test_a_rollout_is_paused_resumed_promoted_and_another_aborted(browser: Browser) -> None:
    with console_service(two_models) as service, visit(browser, service.url) as seen:
        seen.log_in(service.keys["home"])
        page = seen.page
        seen.go("#/rollout/digits")
        for name, state in (("Pause", "paused"), ("Resume", "canary"), ("Promote", "promoted")):
            page.get_by_role("button", name=name).click()
            page.get_by_role("dialog").get_by_role("button", name=name).click()
            expect(page.get_by_role("heading", name=re.compile(state))).to_be_visible()
        service.version("digits", 3)
        expect(page.get_by_role("heading", name=re.compile("2 → 3 +canary"))).to_be_visible()
        page.get_by_role("button", name="Abort").click()
        page.get_by_role("dialog").get_by_role("button", name="Abort").click()
        expect(page.get_by_role("heading", name=re.compile("rolled back"))).to_be_visible()
        audit = service.brain.call("rollout.history", model="digits")["audit"]
        by_hand = [event["event"] for event in audit if event["actor"].startswith("home ")]
        assert by_hand == ["paused", "canary", "promoted", "rolled_back"]


@pytest.mark.proof
def test_who_lacks_a_right_sees_his_models_alone_and_buttons_that_say_why(browser: Browser) -> None:
    def prepare(service: ConsoleService) -> None:
        two_models(service)
        service.keys["viewer"] = service.key("viewer", grant_of((Role.VIEW,), "digits"))

    with console_service(prepare, visitors=False) as service, visit(browser, service.url) as seen:
        seen.go("#/rollout/digits")
        expect(seen.page.get_by_role("heading", name="Log in")).to_be_visible()  # without a key there is nothing to see
        seen.page.get_by_label("Key").fill("hr_0000000000_nobodys")
        seen.page.get_by_role("button", name="Log in").click()
        expect(seen.page.get_by_role("alert")).to_contain_text("none that is good here")
        seen.log_in(service.keys["viewer"])
        expect(seen.page.get_by_role("row", name="digits")).to_be_visible()
        assert seen.page.get_by_text("fraud").count() == 0
        seen.go("#/rollout/digits")
        expect(seen.page.get_by_role("button", name="Abort")).to_be_disabled()
        expect(seen.page.get_by_text("you are key viewer")).to_be_visible()
        # The controller has the last word, whatever a page shows.
        refused = seen.page.evaluate(
            "fetch('control/rollout.abort', {method: 'POST', headers: {'content-type': 'application/json'},"
            " body: JSON.stringify({model: 'digits'})}).then(r => r.json().then(told => [r.status, told.error.what]))"
        )
        assert refused[0] == 403
        assert "needs the role operate" in refused[1]
        # His session ends with his key.
        service.brain.call("key.revoke", name="viewer")
        expect(seen.page.get_by_role("heading", name="Log in")).to_be_visible()


@pytest.mark.proof
def test_a_request_is_built_in_the_page_and_answered(browser: Browser) -> None:
    with console_service(two_models) as service, visit(browser, service.url) as seen:
        page = seen.page
        seen.go("#/model/digits")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_text("answered within")).to_contain_text("version 1 answered")
        expect(page.locator(".outputs li")).to_have_count(2)
        other = {"inputs": [{"name": "other", "shape": [1], "datatype": "FP32", "data": [1]}]}
        page.get_by_role("textbox", name="Request").fill(json.dumps(other))
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".try .refused")).to_contain_text("the model has no such input")
        assert seen.violations() == []


@pytest.mark.proof
def test_a_link_opens_it_once(browser: Browser) -> None:
    with console_service(two_models) as service:
        link = httpx.post(
            f"{service.url}/console/link", headers={"authorization": f"Bearer {service.keys['home']}"}, trust_env=False
        ).json()["path"]
        with visit(browser, service.url) as seen:
            seen.page.goto(f"{service.url}{link}")
            seen.page.get_by_role("button", name="Log out").wait_for()
            assert "code" not in seen.page.url
        with visit(browser, service.url) as seen:
            seen.page.goto(f"{service.url}{link}")
            expect(seen.page.get_by_role("alert")).to_contain_text("this link was used")


@pytest.mark.proof
def test_what_is_lost_is_shown_with_its_age_and_comes_back(browser: Browser) -> None:
    with console_service(two_models) as service, visit(browser, service.url) as seen:
        seen.go()
        expect(seen.page.get_by_role("row", name="digits")).to_be_visible()
        service.control.away = True
        expect(seen.page.get_by_role("status")).to_contain_text("The controller is away since")
        expect(seen.page.get_by_role("row", name="digits")).to_be_visible()
        service.control.away = False
        expect(seen.page.get_by_role("status")).to_be_empty()


HOSTILE = ("</script><img src=x onerror=alert(1)>", "\u202egnirts", "<b>" + "x" * 4000)


@pytest.mark.proof
def test_hostile_words_are_text(browser: Browser) -> None:
    def prepare(service: ConsoleService) -> None:
        two_models(service)
        for words in HOSTILE:
            service.brain.call("rollout.pause", model="digits", actor=words[:200])
            service.brain.call("rollout.resume", model="digits", actor=words[:200])
        service.brain.call("rollout.pause", model="digits", actor=HOSTILE[0])
        service.brain.streams.broken["orders"] = HOSTILE[2]

    with console_service(prepare) as service, visit(browser, service.url) as seen:
        alerts: list[str] = []
        seen.page.on("dialog", lambda dialog: alerts.append(dialog.message))
        for path in ("", "#/rollout/digits", "#/rollout/%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", "#/nothing/%E0%A4%A"):
            seen.go(path)
            seen.page.locator("h1").first.wait_for(state="attached")
            assert seen.page.locator("main img[src], main b > img").count() == 0
        seen.go("#/rollout/digits")
        expect(seen.page.get_by_text(f"paused by {HOSTILE[0]}").first).to_be_visible()
        assert alerts == []


@pytest.mark.proof
def test_a_thousand_models_and_fifty_streams_are_filtered_and_scrolled_at_once(browser: Browser) -> None:
    def prepare(service: ConsoleService) -> None:
        for i in range(1000):
            service.version(f"model-{i:04}", 1)
        streams = [{"kind": "stream", "name": f"stream-{i:02}", "model": f"model-{i:04}", "spec": {}} for i in range(50)]
        service.brain.call("apply", models=[{"name": f"model-{i:04}"} for i in range(1000)], feeds=streams)
        service.brain.tick(4)

    with console_service(prepare, tick_every_s=2.0) as service, visit(browser, service.url) as seen:
        seen.go()
        seen.page.get_by_text("50 of 1,000 shown").wait_for()
        drawn = seen.page.locator("section[aria-labelledby=models] tbody tr")
        for rows in (50, 100, 150, 200):  # no more than what was asked for is drawn: what that takes is bench.console_page's
            expect(drawn).to_have_count(rows)
            seen.page.get_by_role("button", name="Show 50 more").first.click()
        for text, rows in (("9", 50), ("model-099", 10), ("stream-0", 0), ("", 250), ("0500", 1)):
            seen.page.locator("#filter").fill(text)
            expect(drawn).to_have_count(rows)
        expect(seen.page.get_by_role("row", name="model-0500")).to_be_visible()


@pytest.mark.proof
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_page_is_for_everybody_on_a_phone_and_in_the_dark(
    service: ConsoleService, browser: Browser, dark: bool, width: int
) -> None:
    with visit(browser, service.url, width=width, dark=dark) as seen:
        for path in ("", "#/rollout/digits", "#/model/digits", "#/stream/orders", "#/audit/digits", "#/login"):
            seen.go(path)
            seen.page.locator("h1").first.wait_for(state="attached")
            assert seen.violations() == [], path
            assert seen.too_wide_px() <= 0, path
