"""`make pictures`: the README's animations, taken of the real page in a real browser."""

import io
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.support.programs import needed
from tests.support.project import ROOT
from tests.support.service import free_port, service

FOLDER = ROOT / "docs" / "pictures"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SIZE = {"width": 1280, "height": 860}
WIDTH = 860  # pixels of the animation
SECONDS = 6.0
FRAME_SECONDS = 0.08
PUSHES = ((1.0, "#push-right"), (3.4, "#push-left"))  # seconds from the beginning, button
COLOURS = 96


def main() -> None:
    """Make both animations, with the pole pushed to either side."""
    FOLDER.mkdir(exist_ok=True)
    port = free_port()
    with service(port), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=needed("chromium"), args=FLAGS)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=SIZE, color_scheme=scheme)  # type: ignore[arg-type] # its literal types
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_timeout(6000)
            _write(FOLDER / f"page-{scheme}.gif", _capture(page))
            page.close()
        browser.close()


def _capture(page: Page) -> list[Image.Image]:
    frames: list[Image.Image] = []
    pushes = list(PUSHES)
    began = time.monotonic()
    while (now := time.monotonic() - began) < SECONDS:
        if pushes and now >= pushes[0][0]:
            page.click(pushes.pop(0)[1])
        frame = Image.open(io.BytesIO(page.screenshot(type="png")))
        height = round(frame.height * WIDTH / frame.width)
        frames.append(frame.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS))
        page.wait_for_timeout(max(0.0, 1000 * ((len(frames)) * FRAME_SECONDS - now)))
    return frames


def _write(path: Path, frames: list[Image.Image]) -> None:
    palette = frames[len(frames) // 2].quantize(COLOURS)
    shown = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = round(1000 * SECONDS / len(shown))
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=duration, loop=0)
    print(f"{path}: {len(shown)} frames, {path.stat().st_size:,} bytes")  # noqa: T201 - a program


if __name__ == "__main__":
    main()
