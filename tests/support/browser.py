"""Debian's Chromium, driven by playwright; a page that notes what goes wrong in it, and whom it asks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb")
PATIENCE_MS = 90_000  # a busy machine takes its time; what is there is seen at once
CHROMIUM = shutil.which("chromium")
# Where CI runs, a browser that is missing is a fault.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and "HEADRACE_CI" not in os.environ, reason="not here: chromium; `make tools` as root"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser, without a window."""
    assert CHROMIUM is not None, "there is no chromium: `make tools` as root installs it"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page in a context of its own. `faults` are errors of its scripts and of its policy; `hosts` whom it asked."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def go(self, path: str = "") -> None:
        """Opens the console at that place, such as `#/rollout/digits`."""
        self.page.goto(f"{self.url}/console/{path}")

    def log_in(self, key: str) -> None:
        """Becomes whoever has the key."""
        self.go("#/login")
        self.page.get_by_label("Key").fill(key)
        self.page.get_by_role("button", name="Log in").click()
        self.page.get_by_role("button", name="Log out").wait_for()

    def press(self, button: str) -> None:
        """The button, and the same one in the question that it asks."""
        self.page.get_by_role("button", name=button, exact=True).click()  # "Seek" is part of the command to copy, too
        self.page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()

    def too_wide_px(self) -> int:
        """How much of the page lies beside the window; 0 or less where nothing does."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def violations(self) -> list[str]:
        """What axe finds that keeps people out, by its rule and place."""
        found = Axe().run(self.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        return [f"{each['id']}: {node['target']}" for each in found.response["violations"] for node in each["nodes"]]

    def note(self, kind: str, said: str) -> None:
        """A line in the browser's console."""
        if kind == "error" and "status of" not in said:
            self.faults.append(said)

    def check(self) -> None:
        """Nothing went wrong in its scripts, and it asked nobody but the gateway."""
        assert self.faults == []
        assert self.hosts == {urlsplit(self.url).netloc}


@contextmanager
def visit(browser: Browser, url: str, *, width: int = 1280, dark: bool = False, check: bool = True) -> Iterator[Visit]:
    """A page, checked at its end. A refusal that the page shows is a line in the browser's console too: that is no fault."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    seen = Visit(page, url)
    page.on("pageerror", lambda error: seen.faults.append(str(error)))
    page.on(
        "console", lambda said: seen.faults.append(said.text) if said.type == "error" and "status of" not in said.text else None
    )
    page.on("request", lambda asked: seen.hosts.add(urlsplit(asked.url).netloc))
    try:
        yield seen
        if check:
            seen.check()
    finally:
        context.close()
