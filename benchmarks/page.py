"""How soon the page shows a balancing pole, how evenly it draws and controls, and its weight.

    python -m benchmarks.page

Opens the page of a service on loopback in a real browser, Debian's Chromium.
"""

import gzip
import statistics
import time
from itertools import pairwise

from playwright.sync_api import Page, sync_playwright

from benchmarks.calling.served import free_port, served
from benchmarks.environments import processor
from service.rest.page.routes import STATIC

BROWSER = "/usr/bin/chromium"
OPENINGS = 9
STEPS = 1_000
FRAMES = 300
FRAME_TIMES = """(count) => new Promise((resolve) => {
  const times = [];
  const frame = (now) => times.push(now) < count ? requestAnimationFrame(frame) : resolve(times);
  requestAnimationFrame(frame);
})"""
COUNT = "Number(document.getElementById('steps').textContent.replace(',', ''))"


def main() -> None:
    """Measure, and print a table."""
    with served(free_port()) as running, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        openings = [_open(page, running.address) for _ in range(OPENINGS + 1)][1:]

        page.evaluate("for (const panel of document.querySelectorAll('details')) panel.open = true")
        frames = page.evaluate(FRAME_TIMES, FRAMES)
        gap = statistics.median(after - before for before, after in pairwise(frames))
        hertz = _control_rate(page)
        version = browser.version
        browser.close()

    print(f"Chromium {version}, headless, {processor()}\n")
    print("| what | figure |\n| --- | --- |")
    print(
        f"| from opening to the first step | median {statistics.median(openings):.0f} ms,"
        f" longest of {OPENINGS} {max(openings):.0f} ms |"
    )
    print(f"| frames, everything open | {1_000 / gap:.1f} a second, median of {FRAMES} |")
    print(f"| control steps, everything open | {hertz:.2f} a second over {STEPS} steps |")
    print(f"| weight, compressed | {_weight() / 1_000:.1f} KB |")


def _open(page: Page, address: str) -> float:
    """Open the page; return when the first step was made, in milliseconds."""
    page.goto(address, wait_until="domcontentloaded")
    _wait_for_steps(page, 1)
    return float(page.evaluate("performance.now()"))


def _control_rate(page: Page) -> float:
    """Return the control steps a second over `STEPS` steps."""
    first, began = int(page.evaluate(COUNT)), time.monotonic()
    _wait_for_steps(page, first + STEPS)
    return (int(page.evaluate(COUNT)) - first) / (time.monotonic() - began)


def _wait_for_steps(page: Page, count: int) -> None:
    # `wait_for_function` evaluates text in the page, which the page's own policy forbids.
    while int(page.evaluate(COUNT)) < count:
        page.wait_for_timeout(5)


def _weight() -> int:
    return sum(len(gzip.compress(file.read_bytes())) for file in STATIC.iterdir())


if __name__ == "__main__":
    main()
