"""The page in a real browser, against the real service: what people see, and what they can do."""

import csv
import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchmarks.operations import bundles
from models.bundle import Bundle
from models.manifest import Plant
from service.endpoints import ENDPOINTS, GRPC_LABEL
from tests.support.metrics import samples
from tests.support.programs import needed
from tests.support.project import CHANGING, COMMITTED, ROOT
from tests.support.service import free_port, service
from tests.support.stripping_proxy import stripping_proxy

pytest.importorskip("playwright", reason="needs playwright, which is in the extra dev")
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # As whoever owns that name can have it answered: by an address of the visitor's own machine.
    "--host-resolver-rules=MAP rebound.example 127.0.0.1",
]  # fmt: skip
SHOWN_STATE = """() => {
  const table = document.getElementById('state');
  const texts = [...table.querySelectorAll('output')].map((output) => output.textContent);
  return [Number(table.dataset.seq), JSON.parse(table.dataset.state), texts];
}"""
OPENS_STREAM = """url => new Promise((resolve) => {
  const socket = new WebSocket(url);
  socket.onopen = () => resolve(true);
  socket.onerror = () => resolve(false);
})"""
ASKS = """requests => Promise.all(requests.map(([url, body]) =>
  fetch(url, body ? { method: "POST", body } : {}).then(
    (answer) => answer.status,
    () => "unreadable",
  )))"""
ARTIFACTS = ROOT / "artifacts"  # pictures of the last run, for people to look at

pytestmark = pytest.mark.browser

LIMIT = 20.0  # seconds that a test waits for what must become true


@dataclass
class Watch:
    """What a page asked for and complained of."""

    console: list[str] = field(default_factory=list)
    addresses: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = needed("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "decisions.sqlite"


@pytest.fixture(scope="module")
def address(chromium: Browser, record: Path) -> Iterator[str]:  # noqa: ARG001 - skips without one
    port = free_port()
    with service(port, "--record", str(record), "--shadow", str(COMMITTED)):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages, and hold each to this: no complaint, no request to another host."""
    opened: list[tuple[Page, Watch, str, bool]] = []

    def opening(address: str, *, strict: bool = True, **options: Any) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        page, watch = context.new_page(), Watch()
        page.set_default_timeout(1000 * LIMIT)
        page.on("console", lambda message: watch.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: watch.console.append(f"error: {error}"))
        context.on("request", lambda request: watch.addresses.add(request.url))
        page.on("websocket", lambda socket: watch.addresses.add(socket.url))
        opened.append((page, watch, address, strict))
        page.goto(address, wait_until="domcontentloaded")
        return page

    yield opening
    for page, watch, address, strict in opened:
        page.context.close()
        host = re.sub(r"^https?://|/.*", "", address)
        assert all(re.match(rf"(blob:)?(http|ws)://{host}/", url) for url in watch.addresses)
        if strict:
            assert not [line for line in watch.console if line.startswith(("error", "warning"))]


def steps(page: Page) -> int:
    return int(page.inner_text("#steps").replace(",", ""))


def until(page: Page, claim: str) -> None:
    """Wait until a JavaScript expression is true.

    `wait_for_function` evaluates strings in the page, which the page's own policy forbids.
    """
    ends = time.monotonic() + LIMIT
    while not page.evaluate(claim):
        assert time.monotonic() < ends, (
            f"never true: {claim}; the page says: {page.inner_text('#play')}"
        )
        page.wait_for_timeout(30)


def until_steps(page: Page, count: int) -> None:
    number = "Number(document.getElementById('steps').textContent.replace(',', ''))"
    until(page, f"{number} >= {count}")


def saved_run(page: Page) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.click("#csv")
    return list(csv.DictReader(download.value.path().read_text().splitlines()))


def test_a_balancing_pole_is_seen_without_a_click(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(address)
    until_steps(page, 50)
    assert page.is_hidden("#banner")
    assert page.inner_text("#connection") == "WS /act/stream"


def test_a_late_frame_delays_no_step(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address)
    until_steps(page, 50)
    before = len(saved_run(page))
    page.evaluate("const until = performance.now() + 1500; while (performance.now() < until);")
    until_steps(page, before + 75)
    run = saved_run(page)
    answered = [row for row in run[before : before + 75] if row["q_left"]]
    assert len(answered) > 30  # one by one, not made up for at the end
    times = [float(row["seconds"]) for row in run]
    assert times == pytest.approx([0.02 * index for index in range(len(times))], abs=1e-6)


def test_the_pole_survives_pushes_of_a_metre_a_second(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(address)
    until_steps(page, 50)
    for button in ("#push-right", "#push-left"):
        before = len(saved_run(page))
        page.click(button)
        until_steps(page, before + 120)
    velocities = [float(row["cart_velocity"]) for row in saved_run(page)]
    changes = [after - before for before, after in pairwise(velocities)]
    assert max(changes) == pytest.approx(1, abs=0.25)
    assert min(changes) == pytest.approx(-1, abs=0.25)
    assert page.is_hidden("#banner")


def test_a_click_beside_the_cart_pushes_it_away_and_a_drag_by_its_length(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(address)
    until_steps(page, 30)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    ground = box["y"] + box["height"] - 60
    page.mouse.click(box["x"] + 40, ground)
    until_steps(page, 60)
    page.mouse.move(box["x"] + box["width"] / 2, ground)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 - 60, ground, steps=4)
    page.mouse.up()
    until_steps(page, 100)
    velocities = [float(row["cart_velocity"]) for row in saved_run(page)]
    changes = [after - before for before, after in pairwise(velocities)]
    assert max(changes) > 0.7
    assert min(changes) < -0.3


def test_a_finger_pushes_too_and_the_page_does_not_scroll_sideways(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(
        address, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    until_steps(page, 30)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + 20, box["y"] + box["height"] - 50)
    until_steps(page, 60)
    velocities = [float(row["cart_velocity"]) for row in saved_run(page)]
    assert max(after - before for before, after in pairwise(velocities)) > 0.7
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_pole_can_be_taken_by_its_tip_and_let_go(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(address)
    until_steps(page, 30)
    page.click("#pause")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    scale = min(
        box["width"] / 5.3, (box["height"] - 96) / 1.25
    )  # pixels a metre, as scene.js has it
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] - 34 - 1.25 * scale
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 0.9 * scale, y + 0.6 * scale, steps=4)
    page.mouse.up()
    page.click("#pause")
    until(page, "/fell after/.test(document.getElementById('banner').textContent)")


def test_what_is_shown_is_what_was_posted(
    open_page: Callable[..., Page], address: str, record: Path
) -> None:
    page = open_page(address)
    until_steps(page, 40)
    shown = []
    for _ in range(5):
        page.wait_for_timeout(130)
        shown.append(page.evaluate(SHOWN_STATE))
    page.click("#pause")
    # A step whose answer came too late for it, on a busy machine, has none to compare.
    run = {int(row["seq"]): row for row in saved_run(page) if row["q_left"]}
    time.sleep(0.5)  # the record is written each tenth of a second

    with sqlite3.connect(f"file:{record}?mode=ro", uri=True) as database:
        names = "cart_position, cart_velocity, pole_angle, pole_angular_velocity"
        query = f"SELECT seq, {names}, q_left, q_right, action FROM decisions"  # noqa: S608 - fixed names
        decided = [row for row in database.execute(query) if row[0] is not None]
    posted = {(row[0], *row[1:5]): row[5:] for row in decided}
    for seq, state, texts in shown:
        assert (seq, *state) in posted
        assert texts == [f"{value:.4f}".replace("-", "−") for value in state]
    assert len(run) >= 30
    for seq, row in run.items():
        state = tuple(float(row[name]) for name in names.split(", "))
        q_left, q_right, action = posted[(seq, *state)]
        assert (float(row["q_left"]), float(row["q_right"])) == (q_left, q_right)
        assert int(row["action"]) == action


def test_the_shown_reasons_are_the_answers(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address)
    until_steps(page, 20)
    page.click("#pause")
    page.wait_for_timeout(300)
    state = json.loads(page.get_attribute("#state", "data-state") or "")
    answer = httpx2.post(f"{address}/act", json={"state": state}).json()
    assert page.inner_text("#action") == answer["action_name"]
    shown = [page.inner_text(f"#q-{side}").replace("\u2212", "-") for side in ("left", "right")]
    assert shown == [f"{value:.3f}" for value in answer["q_values"]]
    until(
        page,
        "/1,681 states in one batch/.test(document.getElementById('surface-text').textContent)",
    )


def test_a_value_that_training_never_saw_is_lit(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(f"{address}/#start=0,7.5,0,0")
    until(page, "document.querySelectorAll('#state tr.out').length > 0")
    assert "outside training" in page.inner_text("#state tr.out")


def test_without_the_service_nobody_controls_and_with_it_the_policy_does_again(
    open_page: Callable[..., Page],
) -> None:
    port = free_port()
    with service(port) as process:
        page = open_page(f"http://127.0.0.1:{port}", strict=False)
        until_steps(page, 50)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(page, "/^Nobody controls: /.test(document.getElementById('banner').textContent)")
        until(page, "/^Nobody controls/.test(document.getElementById('banner').textContent)")
        page.wait_for_timeout(1500)
        run = saved_run(page)
        assert abs(float(run[-1]["pole_angle"])) > 0.1
        assert (run[-1]["controller"], run[-1]["action"]) == ("nobody", "")
        assert page.inner_text("#connection") == "no answer"
    with service(port):
        until(page, "document.getElementById('banner').hidden")
        until_steps(page, 50)
        assert page.inner_text("#connection") in ("WS /act/stream", "POST /act")


def test_each_scenario_can_be_watched(
    open_page: Callable[..., Page], address: str, committed: Bundle
) -> None:
    page = open_page(address)
    until(page, "document.querySelectorAll('#robustness tbody tr').length > 0")
    names = [each.name for each in committed.manifest.robustness.scenarios]
    assert page.locator("#robustness tbody th").all_inner_texts() == names
    # A button for each but `recovery`, whose starts are in a file that no page has.
    assert page.get_by_role("button", name="Watch ").count() == len(names) - 1
    for name in (names[0], names[len(names) // 2], names[-2]):
        page.get_by_role("button", name=f"Watch {name}", exact=True).click()
        assert page.input_value("#preset") == name
        until(page, f"document.getElementById('banner').textContent.startsWith({json.dumps(name)})")
        until_steps(page, 5)
        assert f"preset={name.split()[0]}" in page.url.replace("%2C", ",")
    extreme = committed.manifest.robustness.scenarios[3]
    text = page.inner_text("#robustness tbody tr:nth-child(4)")
    assert f"{100 * extreme.success_rate:g} %" in text
    assert page.locator("#pictures img").count() == 5


def test_a_scenario_that_lasts_counts_as_survived(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(f"{address}/#preset=nominal&stepTime=5")
    until(page, "/1 of 1 runs survived/.test(document.getElementById('banner').textContent)")


def test_the_page_begins_with_the_plant_of_the_policy_and_tells_it(
    open_page: Callable[..., Page], committed: Bundle, tmp_path: Path
) -> None:
    plant = Plant(pole_mass=0.3, step_seconds=0.025)
    environment = committed.manifest.environment.model_copy(
        update={"step_seconds": 0.025, "plant": plant}
    )
    bundles.relative(committed, tmp_path / "heavy", bundles.halved, environment=environment)
    port = free_port()
    with service(port, "--bundle", str(tmp_path / "heavy")):
        page = open_page(f"http://127.0.0.1:{port}/#delay=1")
        until(page, "document.getElementById('slider-poleMass').value === '0.3'")
        assert page.input_value("#slider-stepTime") == "25"
        assert page.input_value("#slider-delay") == "1"  # of the link
        assert page.evaluate("location.hash") == "#delay=1"  # the plant is no change of it
        until_steps(page, 20)
        assert "a pole of 0.3 kg" in page.inner_text("#facts")
        assert "steps of 0.025 s" in page.inner_text("#facts")


def test_a_link_restores_the_setting(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address)
    until_steps(page, 5)
    page.locator("#slider-noise").fill("0.05")
    page.locator("#slider-delay").fill("2")
    page.locator("#slider-halfLength").fill("0.8")
    page.select_option("#preset", "extreme")
    page.locator("#slider-dropped").fill("0.1")
    link = page.url
    values = "[...document.querySelectorAll('#sliders output')].map((output) => output.textContent)"
    before = page.evaluate(values)
    again = open_page(link)
    assert again.evaluate(values) == before
    assert again.input_value("#slider-dropped") == "0.1"
    until_steps(again, 5)


def test_a_setting_that_breaks_the_policy_shows_the_fall(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(f"{address}/#delay=8")
    until(
        page,
        "/(fell|track) after \\d+ steps/.test(document.getElementById('banner').textContent)",
    )
    until(page, "/(fell|left)/.test(document.getElementById('live').textContent)")
    until(page, "document.getElementById('banner').hidden")


def test_the_keyboard_alone_does_it_all(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address)
    until_steps(page, 20)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the cart"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab") if page.evaluate("document.activeElement.id") != "stage" else None
    assert page.evaluate("document.activeElement.id") == "stage"
    page.keyboard.press("ArrowRight")
    until(page, "/Pushed by 1.0 .* right/.test(document.getElementById('live').textContent)")
    page.keyboard.press("Space")
    until(page, "document.getElementById('banner').textContent === 'Paused'")
    page.wait_for_timeout(100)
    before = steps(page)
    page.keyboard.press(".")
    until_steps(page, before + 1)
    page.wait_for_timeout(100)
    assert steps(page) == before + 1
    page.keyboard.press("Space")
    page.keyboard.press("r")
    until(page, f"Number(document.getElementById('steps').textContent) < {before}")
    page.keyboard.press("d")
    until(page, "document.getElementById('banner').textContent === 'You drive: hold ← or →.'")
    page.keyboard.down("ArrowRight")
    until(page, "/ after \\d+ steps/.test(document.getElementById('banner').textContent)")
    page.keyboard.up("ArrowRight")
    assert {row["controller"] for row in saved_run_by_key(page)} == {"you"}


def saved_run_by_key(page: Page) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.focus("#csv")
        page.keyboard.press("Enter")
    return list(csv.DictReader(download.value.path().read_text().splitlines()))


def test_every_control_is_reached_by_the_tab_key(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(address)
    until_steps(page, 5)
    wanted = set(
        page.evaluate(
            "[...document.querySelectorAll('button, select, input, summary')].filter((node) =>"
            " node.checkVisibility() && !node.disabled).map((node) => node.id || node.textContent)"
        )
    )
    reached = set()
    for _ in range(len(wanted) + 40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    assert wanted <= reached


def test_a_hidden_tab_asks_nothing(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address)
    until_steps(page, 20)
    hide = """(hidden) => {
      Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(hide, True)
    page.wait_for_timeout(300)
    before = answered(address)
    page.wait_for_timeout(600)
    assert answered(address) == before
    page.evaluate(hide, False)
    until_steps(page, steps(page) + 20)
    assert answered(address) > before


def answered(address: str) -> float:
    counts = re.findall(
        r"^upright_actions_total\{.*\} (\S+)", httpx2.get(f"{address}/metrics").text, re.MULTILINE
    )
    return sum(map(float, counts))


def test_the_shadow_runs_beside_the_policy(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address)
    until_steps(page, 5)
    page.click("#shadow")
    until(page, "Number(document.getElementById('rival-steps').textContent) > 100")
    assert page.is_visible("#rival-scene")
    compared = page.inner_text("#compared").replace(",", "")
    assert int(compared) > 50
    assert page.inner_text("#disagreed") == "0"  # it is the same bundle


def test_a_second_service_runs_beside_the_first(
    chromium: Browser, open_page: Callable[..., Page], address: str
) -> None:
    port = free_port()
    with service(port, "--cors-origin", address):
        page = open_page(f"{address}/", strict=True)
        page.close()
        context = chromium.new_context()
        second = context.new_page()
        second.goto(f"{address}/?compare=http://127.0.0.1:{port}")
        until(second, "Number(document.getElementById('rival-steps').textContent) > 50")
        assert int(second.inner_text("#compared").replace(",", "")) > 20
        context.close()


def test_the_operators_view_counts_what_happens(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(address)
    page.click("#operate summary")
    until(page, "document.querySelectorAll('#endpoints tbody tr').length > 0")

    def answered() -> float:
        found = samples(httpx2.get(f"{address}/metrics").text)
        return found["upright_requests_total", ("/act/stream", "200")]

    begun, before = time.monotonic(), answered()
    page.wait_for_timeout(3000)
    text = page.inner_text("#endpoints tbody")
    actual = (answered() - before) / (time.monotonic() - begun)
    rate = re.search(r"/act/stream\s+200\s+([\d.]+)", text)
    assert rate is not None, text
    assert 0 < actual / 2 < float(rate[1]) < actual * 2  # each is of other two or three seconds
    assert "ready" in page.inner_text("#operate-figures")
    assert "cartpole-dqn" in page.inner_text("#operate-policy")


@contextmanager
def service_with_keys(folder: Path) -> Iterator[tuple[str, str]]:
    """A service that asks for keys, and a key that it knows."""
    file, port = folder / "keys.toml", free_port()
    command = [sys.executable, "-m", "service", "key", "--keys", str(file), "--scope", "act"]
    made = subprocess.run(
        [*command, "--scope", "metrics", "page"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    with service(port, "--keys", str(file)):
        yield f"http://127.0.0.1:{port}", made.stdout.strip()


def test_a_key_is_asked_for_and_stays_in_memory(
    open_page: Callable[..., Page], tmp_path: Path, committed: Bundle
) -> None:
    with service_with_keys(tmp_path) as (address, key):
        page = open_page(address, strict=False)
        page.wait_for_selector("#key-form", state="visible")
        until(page, "/asks for a key/.test(document.getElementById('banner').textContent)")
        assert committed.digest[7:15] not in page.content()
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        until(page, "/not known/.test(document.getElementById('key-reason').textContent)")
        page.fill("#key", key)
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-form", state="hidden")
        until_steps(page, 50)
        assert page.inner_text("#connection") == "POST /act"
        until(page, "document.querySelectorAll('#pictures img').length > 0")
        assert key not in page.content()
        assert key not in page.url
        kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        assert page.evaluate(kept) == '[{},{},""]'
        page.reload()
        page.wait_for_selector("#key-form", state="visible")


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another site</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other_site() -> Iterator[str]:
    """Serve an empty page, without a policy, on an origin of its own."""
    server = HTTPServer(("127.0.0.1", 0), _EmptyPage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_page_of_another_origin_changes_nothing_and_opens_no_stream(
    chromium: Browser, address: str, other_site: str
) -> None:
    page = chromium.new_page()
    page.goto(other_site)
    for path in CHANGING:
        refused = requests_answered(address, 403)
        # The page cannot read the answer, but without a refusal its request would have counted.
        page.evaluate("url => fetch(url, {method: 'POST', mode: 'no-cors'})", address + path)
        assert requests_answered(address, 403) == refused + 1
    opened = page.evaluate(OPENS_STREAM, address.replace("http", "ws") + "/act/stream")
    assert not opened
    page.close()


def test_a_page_of_another_origin_reads_no_endpoint(
    chromium: Browser, address: str, other_site: str, committed: Bundle
) -> None:
    page = chromium.new_page()
    page.goto(other_site)
    answers = page.evaluate(ASKS, requests_of_all_endpoints(address))
    assert set(answers) == {"unreadable"}
    page.close()
    assert httpx2.get(f"{address}/model").json()["digest"] == committed.digest


def test_a_name_that_was_made_to_point_here_gets_nothing(chromium: Browser, address: str) -> None:
    rebound = address.replace("127.0.0.1", "rebound.example")
    page = chromium.new_page()
    response = page.goto(rebound)
    assert response is not None
    assert response.status == 421
    answers = page.evaluate(ASKS, requests_of_all_endpoints(rebound))
    assert set(answers) == {421}
    assert not page.evaluate(OPENS_STREAM, rebound.replace("http", "ws") + "/act/stream")
    page.close()


def requests_of_all_endpoints(address: str) -> list[list[str]]:
    """Return addresses and bodies: an empty one means GET."""
    paths = [
        endpoint.path.format(name="cartpole-dqn", version="1", digest="sha256:0")
        for endpoint in ENDPOINTS
        if endpoint.label != GRPC_LABEL
    ]
    return [[address + path, body] for path in paths for body in ("", '{"state":[0,0,0,0]}')]


def requests_answered(address: str, status: int) -> float:
    """Return how many requests were answered with a status, whatever was asked."""
    found = samples(httpx2.get(f"{address}/metrics").text)
    return sum(
        value
        for (name, labels), value in found.items()
        if name == "upright_requests_total" and labels[-1] == str(status)
    )


def test_page_and_docs_work_below_a_path_of_a_proxy(open_page: Callable[..., Page]) -> None:
    port = free_port()
    with service(port, "--root-path", "/policy"), stripping_proxy(port, "/policy") as address:
        page = open_page(f"{address}/")
        until_steps(page, 20)
        assert page.inner_text("#connection") == "WS /act/stream"
        until(page, "document.querySelectorAll('#pictures img').length > 0")

        page.click("text=Interface")
        page.click("#operations-Actions-act_on_state_act_post .opblock-summary-control")
        page.click("text=Try it out")
        page.fill("textarea.body-param__text", '{"state":[0,0,0.05,0]}')
        page.click(".execute")
        status = page.locator(".live-responses-table .response-col_status").last
        assert status.inner_text().startswith("200")


def test_the_live_region_speaks_calmly(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address)
    until_steps(page, 5)
    page.evaluate(
        """() => {
          window.changes = [];
          new MutationObserver(() => window.changes.push(performance.now()))
            .observe(document.getElementById('live'), { childList: true });
        }"""
    )
    for _ in range(12):
        page.click("#push-right")
        page.wait_for_timeout(150)
        page.click("#push-left")
        page.wait_for_timeout(150)
    page.wait_for_timeout(1500)
    changes = page.evaluate("window.changes")
    assert 1 <= len(changes) <= 2


def test_motion_is_reduced_where_that_is_asked_for(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(address, reduced_motion="reduce")
    until_steps(page, 20)
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.bar i')).transitionDuration")
        == "0s"
    )


def test_the_first_paint_needs_no_script(chromium: Browser, address: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.inner_text("h1") == "Upright"
    assert page.is_visible(".placeholder")
    assert page.is_visible("noscript p")
    context.close()


@pytest.fixture(scope="module")
def long_run(chromium: Browser, address: str) -> Iterator[Page]:
    """A page that shows everything and runs on while other tests do."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(address)
    page.evaluate("for (const panel of document.querySelectorAll('details')) panel.open = true")
    yield page
    context.close()


@pytest.mark.usefixtures("long_run")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 820, 1600])
def test_axe_finds_nothing_serious(
    open_page: Callable[..., Page], address: str, scheme: str, width: int
) -> None:
    page = open_page(address, color_scheme=scheme, viewport={"width": width, "height": 900})
    until_steps(page, 30)
    page.evaluate("for (const panel of document.querySelectorAll('details')) panel.open = true")
    page.evaluate("document.getElementById('key-form').hidden = false")
    until(page, "document.querySelectorAll('#endpoints tbody tr').length > 0")
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    page.evaluate(axe)
    findings = page.evaluate("axe.run().then(({ violations }) => violations)")
    worst = [
        (each["id"], each["impact"], [node["html"] for node in each["nodes"]][:3])
        for each in findings
        if each["impact"] in ("serious", "critical")
    ]
    assert not worst
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=ARTIFACTS / f"page-{width}-{scheme}.png", full_page=True)


def test_a_thousand_steps_without_a_fall(long_run: Page) -> None:
    for count in (400, 700, 1000):  # each within the limit of one wait
        until_steps(long_run, count)
    assert long_run.is_hidden("#banner")
