"""A picture of the console while a rollout is being proven: what `make picture` puts into the README."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.client import ControlClient

WIDTH, HEIGHT = 1100, 700
PATIENCE_MS = 120_000
SEEN_FOR_MS = 6_500  # so long the check is watched before the picture is taken: its interval has a past then


@contextmanager
def picture(model: str, file: Path) -> Iterator[None]:
    """Takes it beside the block, of the model's next rollout, once a check of it is drawn. Raises RuntimeError without."""
    trouble: list[Exception] = []

    def take() -> None:
        try:
            _take(model, file)
        except Exception as error:  # noqa: BLE001 - told below, in the thread that waits
            trouble.append(error)

    taking = threading.Thread(target=take)
    taking.start()
    yield
    taking.join()
    if trouble:
        raise RuntimeError(f"no picture was taken: {trouble[0]}") from trouble[0]


def _take(model: str, file: Path) -> None:
    from playwright.sync_api import sync_playwright  # of the tests' packages: the demo does without

    with ControlClient.from_environment() as client:
        link = client.console_link()
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(link)
        page.get_by_role("button", name="Log out").wait_for(timeout=PATIENCE_MS)
        page.evaluate(f"location.hash = '#/rollout/{model}'")
        page.locator(".check canvas").first.wait_for(timeout=PATIENCE_MS)
        page.wait_for_timeout(SEEN_FOR_MS)
        page.mouse.move(0, 0)
        page.screenshot(path=file)
        browser.close()
