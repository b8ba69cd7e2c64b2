"""The Stream and audit pages in a real browser, over a real broker: dead letters scored again, and a stream that is moved."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from cluster.access.callers import Role, grant_of
from tests.support.browser import chromium, needs_chromium, visit
from tests.support.console_service import ConsoleService, console_service
from tests.support.operated_streams import LocalStreamOperations, OperatedStream
from tests.support.stream_topics import read_values
from tests.support.waiting import until

pytestmark = [needs_chromium, pytest.mark.proof, pytest.mark.timeout(300)]

HOSTILE = b"<img src=x onerror=alert(1)>\xe2\x80\xaegnirts" + b"x" * 100_000
WAIT_S = 60.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def stream(broker: str) -> OperatedStream:
    """With four dead letters of two reasons: three could be scored by now."""
    stream = OperatedStream(broker)
    good = [(f"expected 3 values, got {n}", b'{"x": [%d, 1, 1]}' % n) for n in range(3)]
    stream.die([*good, ("not JSON: <b>bold</b>", HOSTILE)])
    return stream


@pytest.fixture(scope="module")
def service(broker: str, stream: OperatedStream) -> Iterator[ConsoleService]:
    def prepare(service: ConsoleService) -> None:
        service.version("fraud", 1)
        service.brain.call("apply", models=[{"name": "fraud", "rollout": {}}])
        feed = {"kind": "stream", "name": stream.name, "model": stream.model, "spec": stream.document}
        service.brain.call("apply", feeds=[feed])
        service.brain.tick(4)
        service.keys["home"] = service.home_key()
        service.keys["viewer"] = service.key("viewer", grant_of((Role.VIEW,), "fraud"))

    with console_service(prepare, streams=lambda control: LocalStreamOperations(control, broker)) as running:
        yield running


def test_dead_letters_are_browsed_looked_at_and_scored_again(
    service: ConsoleService, browser: Browser, stream: OperatedStream
) -> None:
    with visit(browser, service.url) as seen:
        page = seen.page
        seen.log_in(service.keys["home"])
        seen.go(f"#/stream/{stream.name}")
        page.get_by_role("link", name="Look at the newest").click()
        expect(page.get_by_text("4 dead letters among the newest")).to_be_visible()
        reasons = page.get_by_role("region", name="Reasons, as a table")
        expect(reasons.get_by_role("row", name=re.compile("expected # values, got #"))).to_contain_text("3")

        # One that is hostile is text, and not all of it.
        page.get_by_role("link", name="Show those: not JSON: <b>bold</b>").click()
        page.get_by_role("link", name=f"Look at {stream.spec.input.topic}/1/3").click()
        letter = page.get_by_role("region", name="One dead letter")
        expect(letter.locator("pre").first).to_contain_text("<img src=x onerror=alert(1)>")
        expect(letter).to_contain_text("the first 16384 characters of 100035")
        assert page.locator("main img[src], main b > b").count() == 0
        assert seen.violations() == []

        page.get_by_role("link", name="Show all").click()
        page.get_by_role("link", name="Show those: expected # values, got #").click()
        page.get_by_role("button", name="Replay 3 letters").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("are scored again by the versions that serve now")
        expect(dialog).to_contain_text(stream.spec.output.topic)
        dialog.get_by_role("button", name="Replay 3 letters").click()
        moves = page.get_by_role("region", name="Replays and seeks, as a table")
        expect(moves.get_by_role("row", name=re.compile("replay"))).to_contain_text("3 scored, 0 failed again")
        assert sorted(value["sum"][0] for value in read_values(stream.brokers, stream.spec.output.topic)) == [2.0, 3.0, 4.0]
        audit = {event["event"]: event for event in service.brain.call("audit.search", words=stream.name)["events"]}
        assert audit["dead letter looked at"]["detail"]["offset"] == 3
        assert audit["stream.replay"]["detail"]["letters"] == 3
        assert audit["stream.replay done"]["actor"].startswith("home ")

        # The audit page finds it, and leads back.
        seen.go("#/audit")
        page.get_by_label("Search").fill("replay done")
        row = page.get_by_role("row", name=re.compile("3 scored"))
        expect(row.get_by_role("link")).to_have_attribute("href", f"#/stream/{stream.name}")
        expect(page.get_by_role("region", name="Audit, as a table").get_by_role("row")).to_have_count(2)
        assert seen.violations() == []


def test_a_seek_is_previewed_and_refused_where_the_stream_has_changed(
    service: ConsoleService, browser: Browser, stream: OperatedStream
) -> None:
    def preview() -> None:
        page.get_by_label("Go to").select_option("latest")
        page.get_by_role("button", name="Preview").click()
        expect(page.get_by_text("12 records would never be scored")).to_be_visible()

    with visit(browser, service.url) as seen:
        page = seen.page
        seen.log_in(service.keys["home"])
        seen.go(f"#/stream/{stream.name}")
        preview()
        row = page.get_by_role("row", name=f"{stream.spec.input.topic}/1")
        expect(row).to_contain_text("10the end")
        assert seen.violations() == []

        service.brain.call("feed.pause", kind="stream", name=stream.name, actor="ann")
        seen.press("Seek")
        expect(page.get_by_role("alert")).to_contain_text("it has changed since it was looked at")
        page.get_by_role("dialog").get_by_role("button", name="Close").click()
        assert stream.stands() == {0: 4, 1: 4}

        service.brain.call("feed.resume", kind="stream", name=stream.name)
        preview()
        seen.press("Seek")
        moves = page.get_by_role("region", name="Replays and seeks, as a table")
        expect(moves.get_by_role("row", name=re.compile("seek"))).to_contain_text("up to 12 records skipped")
        assert stream.stands() == {0: 10, 1: 10}
        until(lambda: service.brain.call("stream.show", name=stream.name)["seen"]["wanted"] == "running", WAIT_S)


def test_who_may_only_view_counts_dead_letters_and_sees_none(
    service: ConsoleService, browser: Browser, stream: OperatedStream
) -> None:
    with visit(browser, service.url) as seen:
        page = seen.page
        seen.log_in(service.keys["viewer"])
        seen.go(f"#/stream/{stream.name}?letters=")
        expect(page.get_by_text(re.compile("dead letters among the newest"))).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("^Replay"))).to_have_count(2)
        for button in page.get_by_role("button", name=re.compile("^Replay")).all():
            expect(button).to_be_disabled()
        seen.go(f"#/stream/{stream.name}?letters=&at=0-3")  # the controller has the last word
        expect(page.get_by_role("region", name="One dead letter").get_by_role("alert")).to_contain_text("needs the role operate")
