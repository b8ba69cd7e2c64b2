"""`python -m bench.console_page [--json]`: how long a browser takes for acts on a page of 1,000 models: more of them shown,
scrolled, filtered.

A real service tells of them, and real Chromium draws. The figure is the slowest act beside 100 ms, which people take for at once.
"""

from __future__ import annotations

import argparse
import os
import shutil

from playwright.sync_api import sync_playwright
from rich.console import Console

from bench.figures import Figure, show
from bench.service import running
from cluster.commands.documents import Apply, ModelDocument

MODELS = 1000
AT_ONCE_MS = 100.0
ACTS = """async () => {
  const box = document.getElementById("filter"), took = [];
  const timed = async (act) => {
    const begun = performance.now();
    act();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    took.push(performance.now() - begun);
  };
  const more = () => [...document.querySelectorAll("button")].find((each) => each.textContent === "Show 50 more");
  for (let i = 0; i < 3; i++) await timed(() => more().click());
  for (const at of [0.5, 1]) await timed(() => scrollTo(0, at * document.body.scrollHeight));
  for (const text of ["9", "99", "model-09", "model-099", "", "0500"])
    await timed(() => {
      box.value = text;
      box.dispatchEvent(new Event("input", {bubbles: true}));
    });
  return took;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with running() as service, sync_playwright() as playwright:
        service.control.apply(Apply(models=tuple(ModelDocument(name=f"model-{i:04}") for i in range(MODELS))))
        page = playwright.chromium.launch(executable_path=path).new_page()
        page.goto(f"http://127.0.0.1:{service.port}/console/")
        page.get_by_text("50 of 1,000 shown").wait_for()
        took_ms = page.evaluate(ACTS)
    Console(stderr=True).print(f"ms: {[round(each, 1) for each in took_ms]}")
    slowest = Figure("console_page.slowest", max(took_ms), AT_ONCE_MS, f"ms of {len(took_ms)} acts (lower is better)")
    show([slowest], as_json=options.json)


if __name__ == "__main__":
    main()
