"""The console on the real cluster, through the door: rollouts watched under load, and a controller that is killed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from playwright.sync_api import Browser, expect
from ray import serve

from cluster.commands.documents import Apply, FeedDocument
from cluster.commands.feeds import FeedName
from deployments.gateway.deployment import GatewaySettings
from headrace.local.home import Settings, read_settings
from headrace.local.home_key import home_key
from headrace.local.services import BATCH_LEDGERS, STREAM_OPERATIONS
from tests.conftest import RayCluster
from tests.integration.test_rollout_live import PLAN, SERVING
from tests.support.batch_parts import published, spec_of, write_dataset
from tests.support.browser import chromium, needs_chromium, visit
from tests.support.live import Artifact, Service, controller_process, loaded, running
from tests.support.models import INPUT, failing_artifact, mlp_artifact, rows
from tests.support.operated_streams import OperatedStream
from tests.support.stream_topics import WAIT_S
from tests.support.waiting import until

pytestmark = [needs_chromium, pytest.mark.proof, pytest.mark.timeout(600)]
MODEL = "seen"
WATCHED = PLAN | {"steps": [{"weight": 30, "bake_s": 8}, {"weight": 100, "bake_s": 2}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("console")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return read_settings({"HEADRACE_HOME": str(folder / "home")})


@pytest.fixture(scope="module")
def stable(folder: Path) -> Artifact:
    return mlp_artifact(folder, MODEL)


@pytest.fixture(scope="module")
def service(ray_cluster: RayCluster, settings: Settings, stable: Artifact) -> Iterator[Service]:
    with running(
        ray_cluster, settings, MODEL, GatewaySettings(batch_ledgers=BATCH_LEDGERS, streams=STREAM_OPERATIONS)
    ) as service:
        service.register(stable)
        service.apply(SERVING, WATCHED)
        assert service.ended(1).state == "promoted"
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_a_rollout_is_watched_to_its_promotion_and_another_to_its_rollback(
    service: Service, settings: Settings, browser: Browser, stable: Artifact, folder: Path
) -> None:
    key = home_key(settings.home)
    assert key is not None
    with loaded(service, stable) as load, visit(browser, service.url) as seen:
        load.await_calls(20)
        seen.page.goto(service.control.console_link())  # as `headrace up` prints it
        seen.page.get_by_role("button", name="Log out").wait_for()
        row = seen.page.get_by_role("row", name=MODEL)
        expect(row).to_contain_text(re.compile(r"\b[1-9]\d*(\.\d+)?\b"))  # it is asked, and says how often
        expect(seen.page.get_by_role("region", name="Nodes", exact=True)).to_contain_text("alive")

        service.register(mlp_artifact(folder, MODEL, nudge=0.1))
        seen.go(f"#/rollout/{MODEL}")
        expect(seen.page.get_by_role("heading", name=re.compile("1 → 2 +canary"))).to_be_visible()
        expect(seen.page.get_by_role("img", name=re.compile("error rate over time"))).to_be_visible()
        expect(seen.page.get_by_role("heading", name=re.compile("promoted"))).to_be_visible()
        expect(seen.page.get_by_text("every step passed").first).to_be_visible()

        service.register(failing_artifact(folder, MODEL))
        expect(seen.page.get_by_role("heading", name=re.compile("2 → 3 +rolled back"))).to_be_visible()
        expect(seen.page.get_by_role("row", name=re.compile("rolled back"))).to_contain_text("check error_rate")
        seen.go()
        expect(seen.page.get_by_text("version 3 was taken back: error rate")).to_be_visible()
        assert seen.violations() == []
        load.await_calls(20)
        assert load.failures == []


def test_a_streams_dead_letters_are_scored_again_and_it_is_moved(
    service: Service, settings: Settings, browser: Browser, broker: str
) -> None:
    """By the real thing throughout: the door, a gateway, the process that acts on streams, and the versions that serve."""
    key = home_key(settings.home)
    assert key is not None
    stream = OperatedStream(broker, name="seen-stream", model=MODEL)
    row = orjson.dumps({INPUT: rows(1)[0].tolist()})
    stream.die([("no replica answered", row), ("not JSON: unexpected end", b"{broken")])
    document = FeedDocument(kind="stream", name=stream.name, model=MODEL, spec=stream.document)
    service.control.apply(Apply(feeds=(document,)))
    name = FeedName(kind="stream", name=stream.name)
    try:
        until(lambda: service.control.feed(name).status == "ready", WAIT_S)
        until(lambda: stream.stands() == {0: 10, 1: 10}, WAIT_S)
        with visit(browser, service.url) as seen:
            page = seen.page
            seen.log_in(key)
            seen.go(f"#/stream/{stream.name}?letters=")
            expect(page.get_by_role("region", name="Partitions, as a table")).to_contain_text(re.compile("began at 4: committed"))
            page.get_by_role("link", name="Show those: no replica answered").click()
            seen.press("Replay 1 letter")
            done = page.get_by_role("region", name="Replays and seeks, as a table")
            expect(done.get_by_role("row", name=re.compile("replay"))).to_contain_text("1 scored, 0 failed again")
            page.get_by_label("Go to").select_option("earliest")
            page.get_by_role("button", name="Preview").click()
            seen.press("Seek")
            expect(done.get_by_role("row", name=re.compile("seek"))).to_contain_text("up to 20 to be scored again")
            until(lambda: service.control.feed(name).status == "ready", WAIT_S)
    finally:
        service.control.delete_feed(name)
        until(lambda: f"stream--{stream.name}" not in serve.status().applications, WAIT_S)


def test_the_picture_stays_while_the_controller_is_killed(service: Service, browser: Browser) -> None:
    with visit(browser, service.url) as seen:
        seen.go()
        expect(seen.page.get_by_role("row", name=MODEL)).to_be_visible()
        controller = controller_process()
        controller.suspend()  # killed at once, Ray may have restarted it before anybody has missed it
        expect(seen.page.get_by_role("status")).to_contain_text("The controller is away since")
        expect(seen.page.get_by_role("row", name=MODEL)).to_be_visible()
        controller.kill()
        expect(seen.page.get_by_role("status")).to_be_empty()


def test_a_batch_is_run_and_another_cancelled_by_buttons(
    service: Service, settings: Settings, browser: Browser, folder: Path
) -> None:
    name, key = f"{MODEL}-rows", home_key(settings.home)
    assert key is not None
    total = write_dataset(folder / "in", files=2)
    spec = spec_of(folder / "in", folder / "out", model=MODEL, workers={"max": 1}).model_dump(mode="json")
    service.control.apply(Apply(feeds=(FeedDocument(kind="batch", name=name, model=MODEL, spec=spec),)))
    with visit(browser, service.url) as seen:
        seen.log_in(key)
        expect(seen.page.get_by_role("region", name="Nodes", exact=True)).to_contain_text(re.compile(r"\d %.*of [\d.]+ GiB"))
        seen.go(f"#/batch/{name}")

        seen.press("Run")
        ours = seen.page.get_by_role("region", name="Run by the cluster", exact=True)
        expect(ours.get_by_role("row", name=re.compile("in the console"))).to_contain_text("succeeded")
        expect(seen.page.get_by_role("row", name="published")).to_contain_text("6/6")
        assert published(folder / "out").num_rows == total

        seen.press("Run")
        seen.press("Cancel run")
        expect(ours.get_by_role("row", name=re.compile("cancelled by home"))).to_be_visible()
        expect(seen.page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
        assert published(folder / "out").num_rows == total
        assert seen.violations() == []
    service.control.delete_feed(FeedName(kind="batch", name=name))
