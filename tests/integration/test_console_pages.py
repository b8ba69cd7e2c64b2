"""The console's Batch and Version pages in a real browser: real ledgers and real builds, over a controller of fakes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from playwright.sync_api import Browser, expect
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from cluster.errors import NoCapacity
from cluster.schedule.jobs import JobState
from consumers.batch.runs_seen import LedgerRuns
from consumers.batch.schedule.job import run_asked, run_fire
from consumers.batch.spec import BatchSpec
from deployments.keys.ring import VARIABLE
from deployments.privacy import parquet
from tests.support.batch_parts import ECHO, echo_pin, echo_spec_of, stopping_after
from tests.support.browser import chromium, needs_chromium, visit
from tests.support.builds import builds_here, run
from tests.support.console_service import ConsoleService, console_service
from tests.unit.keys.test_keys import pair_in

__all__ = ["builds_here"]  # a fixture
pytestmark = [needs_chromium, pytest.mark.proof, pytest.mark.timeout(240)]
DAY = date(2026, 11, 23)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def dataset(folder: Path) -> None:
    """Three files of 100 rows, each a unit; three of the first have no number, and a note that would be a picture."""
    folder.mkdir()
    for at in range(3):
        x = [None if at == 0 and i < 3 else float(i) for i in range(100)]
        pq.write_table(pa.table({"x": pa.array(x, pa.float32()), "note": ["<img src=x>"] * 100}), folder / f"{at}.parquet")


def nightly(service: ConsoleService, spec: BatchSpec) -> None:
    """`nightly`, by its schedule at night, of a model that serves."""
    service.version("echo", 1)
    feed = {"kind": "batch", "name": "nightly", "model": "echo", "spec": spec.model_dump(mode="json")}
    service.brain.call("apply", models=[{"name": "echo"}], feeds=[feed | {"schedule": {"cron": "30 2 * * *"}}])
    service.brain.tick(4)
    service.keys["home"] = service.home_key()


def everywhere(browser: Browser, service: ConsoleService, paths: list[str], wait: str) -> None:
    """No page keeps anybody out, in light and dark, and none is wider than a phone."""
    for width, dark in ((1280, False), (360, True)):
        with visit(browser, service.url, width=width, dark=dark) as seen:
            seen.log_in(service.keys["home"])
            for path in paths:
                seen.go(path)
                seen.page.locator(wait).first.wait_for()
                assert seen.violations() == [], (path, width, dark)
                assert seen.too_wide_px() <= 0, (path, width)


def test_a_batch_is_run_cancelled_and_resumed_by_buttons(browser: Browser, tmp_path: Path) -> None:
    dataset(tmp_path / "in")
    spec = echo_spec_of(tmp_path / "in", tmp_path / "out", units={"max_rows": 100})
    run_fire("nightly", spec, echo_pin(), ECHO, as_of=DAY, fire="sched-nightly-20261122T023000Z")
    with (
        console_service(lambda service: nightly(service, spec), ledgers=LedgerRuns) as service,
        visit(browser, service.url) as seen,
    ):
        page, jobs = seen.page, service.brain.jobs
        seen.go("#/batch/nightly")
        runs = page.get_by_role("region", name="Runs", exact=True)
        expect(runs.get_by_role("row", name="published")).to_contain_text("3/3")
        expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
        expect(page.get_by_role("button", name=re.compile("rows quarantined"))).to_be_disabled()

        seen.log_in(service.keys["home"])
        seen.go("#/batch/nightly")
        page.get_by_role("button", name=re.compile("3 rows quarantined")).click()
        aside = page.get_by_role("region", name=re.compile("Some rows"))
        expect(aside.get_by_role("row")).to_have_count(4)
        expect(aside).to_contain_text("<img src=x>")

        seen.press("Run")
        expect(page.get_by_role("row", name=re.compile("home .*, in the console"))).to_contain_text("running")
        (job,) = jobs.submitted
        # What was decided about that run is not done to what came after it.
        page.get_by_role("button", name="Cancel run").click()
        with pytest.raises(NoCapacity):
            run_asked("nightly", spec, echo_pin(), stopping_after(ECHO, 2), as_of=DAY, fire=job.fire)
        jobs.end(job.job, JobState.FAILED, "the disk is full")
        expect(page.get_by_text("its last run failed: the disk is full")).to_be_visible()
        page.get_by_role("dialog").get_by_role("button", name="Cancel run").click()
        expect(page.get_by_role("alert")).to_contain_text("it has moved on")
        page.get_by_role("dialog").get_by_role("button", name="Close").click()
        expect(page.get_by_role("region", name="Left unfinished")).to_contain_text("2 of 3 done")

        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.get_by_role("dialog")).to_contain_text("it is given up")
        page.get_by_role("dialog").get_by_role("button", name="Cancel", exact=True).click()
        seen.press("Resume run")
        expect(page.get_by_role("row", name=re.compile("running"))).to_be_visible()
        seen.press("Cancel run")
        expect(page.get_by_role("row", name=re.compile("cancelled by home"))).to_be_visible()
        resumed = jobs.submitted[-1]
        assert (resumed.resumes, jobs.state([resumed.job])[resumed.job].message) == (True, "stopped")
        run_asked("nightly", spec, echo_pin(), ECHO, as_of=DAY, fire=resumed.fire, resumed=resumed.unfinished)
        expect(page.get_by_role("region", name="Left unfinished")).not_to_be_visible()
        seen.press("Pause schedule")
        expect(page.get_by_role("button", name="Resume schedule")).to_be_visible()
        audit = service.brain.call("rollout.history", model="echo")["audit"]
        by_hand = [event["event"] for event in audit if event["actor"].endswith(", in the console")]
        assert by_hand == ["batch.run", "batch.resume", "batch.cancel", "feed.pause"]
        everywhere(browser, service, ["#/batch/nightly", ""], "main table")


def test_encrypted_rows_are_shown_or_the_key_that_is_not_there_is_named(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, _ = pair_in(tmp_path / "keys", "prod")
    monkeypatch.setenv(VARIABLE, f"file:{private.parent}")
    dataset(tmp_path / "in")
    spec = echo_spec_of(tmp_path / "in", tmp_path / "out", output={"encrypt": "prod"})
    run_fire("nightly", spec, echo_pin(), ECHO, as_of=DAY, fire="sched-nightly-20261122T023000Z")
    with (
        console_service(lambda service: nightly(service, spec), ledgers=LedgerRuns) as service,
        visit(browser, service.url) as seen,
    ):
        seen.log_in(service.keys["home"])
        seen.go("#/batch/nightly")
        button = seen.page.get_by_role("button", name=re.compile("3 rows quarantined"))
        button.click()
        aside = seen.page.get_by_role("region", name=re.compile("Some rows"))
        expect(aside.get_by_role("row")).to_have_count(4)
        button.click()
        expect(aside).to_have_count(0)
        private.unlink()
        parquet._factory.cache_clear()
        button.click()
        alert = seen.page.get_by_role("alert")
        expect(alert).to_contain_text("no key of this machine opens it")
        expect(alert).to_contain_text("it was encrypted for prod")
        expect(alert).not_to_contain_text("try again")
        assert seen.violations() == []


@pytest.mark.usefixtures("builds_here")
def test_versions_are_compared_and_an_answer_is_explained(browser: Browser, tmp_path: Path) -> None:
    image, label = load_digits(return_X_y=True)
    np.savez(tmp_path / "test.npz", image=image[:597].astype(np.float32), label=label[:597])
    built = []
    for strength in (0.00001, 1.0):
        skops.io.dump(LogisticRegression(C=strength, max_iter=200).fit(image[597:], label[597:]), tmp_path / "m.skops")
        section = {
            "source": {"sklearn": "m.skops"},
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}],
            "outputs": ["probabilities"],
            "evaluate": {"data": "test.npz", "label": "label"},
            "optimise": False,
        }
        built.append(run(tmp_path, section, model="digits"))

    def prepare(service: ConsoleService) -> None:
        for one in built:
            assert one.artifact is not None
            service.built("digits", one.artifact)
        service.version("small", 1)
        service.brain.call("apply", models=[{"name": "digits"}, {"name": "small"}])
        service.brain.tick(6)
        service.keys["home"] = service.home_key()

    with console_service(prepare) as service, visit(browser, service.url) as seen:
        page = seen.page
        seen.go("#/model/digits")
        newest = built[-1].report.variants[0].quality
        assert newest is not None
        assert newest.accuracy is not None
        row = page.get_by_role("region", name="Versions", exact=True).get_by_role("row", name=re.compile("^2 "))
        expect(row).to_contain_text(f"{float(f'{100 * newest.accuracy:.3g}'):g} % accuracy")
        page.get_by_role("link", name="Side by side").click()
        side = page.get_by_role("region", name="Side by side", exact=True)
        expect(side.get_by_role("row", name=re.compile("^accuracy"))).to_contain_text(re.compile("with 95 % confidence.*yes$"))
        expect(side.get_by_role("row", name=re.compile("^inputs"))).to_contain_text(re.compile("no$"))
        expect(page.get_by_role("heading", name="What moves its answers")).to_be_visible()
        expect(page.get_by_role("img", name=re.compile(r"image\[\d+\] in version 2"))).to_have_count(12)

        seen.go("#/model/small")
        page.get_by_role("button", name="Explain").click()
        expect(page.get_by_role("heading", name=re.compile("Why version 1"))).to_be_visible()
        expect(page.get_by_role("region", name=re.compile("What added most"))).to_contain_text("input[0]")
        everywhere(browser, service, ["#/versions/digits/1/2", "#/versions/digits/2", "#/model/digits"], "main table")
