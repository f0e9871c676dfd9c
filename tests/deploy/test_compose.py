"""What compose.yaml starts works together: shown by the same set-up from this machine's programs.

Docker's own images are not started here. The service, nginx and Prometheus run as processes, with
the files that compose.yaml mounts; names are replaced by addresses, and times shortened.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from websockets.sync.client import connect

from benchmarks.operations.restart import nginx
from tests.deploy.service_code import dockerfile_user, metric_problems, settings_of
from tests.end_to_end.test_drain import running
from tests.support import compose_nginx
from tests.support.deploy_tools import run
from tests.support.metrics import STATE
from tests.support.project import ROOT
from tests.support.service import free_port, wait_for

FOLDER = ROOT / "deploy" / "compose"
COMPOSE = Path(sys.executable).with_name("docker-compose")
PATH = os.environ.get("PATH", "") + ":/usr/sbin"
SERVICES = ("upright-1", "upright-2")
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Return compose.yaml's services as Docker Compose reads them."""
    text = run(COMPOSE, "--file", FOLDER / "compose.yaml", "config", "--format", "json")
    read: dict[str, dict[str, Any]] = json.loads(text)["services"]
    return read


def test_a_misspelt_field_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    text = (FOLDER / "compose.yaml").read_text()
    file.write_text(text.replace("read_only: true", "readonly: true"))
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(COMPOSE, "--file", file, "config", "--quiet")
    assert "readonly" in error.value.stderr


def test_the_service_runs_by_its_own_flags_and_with_no_rights(
    services: dict[str, dict[str, Any]],
) -> None:
    for name in SERVICES:
        service = services[name]
        settings = settings_of(service["command"])
        assert not isinstance(settings, str), settings
        assert settings.port == 8000
        assert int(service["stop_grace_period"].removesuffix("s")) >= (
            settings.drain + settings.shutdown + 5
        )
        assert service["user"] == f"{dockerfile_user()}:0"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def test_each_file_that_is_mounted_is_there(services: dict[str, dict[str, Any]]) -> None:
    mounted = [
        Path(volume["source"])
        for service in services.values()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    ]
    assert len(mounted) == 6
    assert [path for path in mounted if not path.is_file()] == []


def test_nothing_listens_but_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert {port["published"] for port in published} == {"8080", "9090", "3000"}


def test_nginx_is_configured_as_in_the_folder_beside(services: dict[str, dict[str, Any]]) -> None:
    own = compose_nginx.FILE.read_text()
    assert own == compose_nginx.configuration(), "run python -m tests.support.compose_nginx"
    asked = re.findall(r"server ([\w-]+):(\d+)", own)
    assert asked == [(name, "8000") for name in SERVICES]
    (port,) = services["nginx"]["ports"]
    assert f"listen {port['target']};" in own


def test_prometheus_asks_each_service_under_the_name_that_the_alerts_know() -> None:
    own = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    beside = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    (job,) = own["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{name}:8000" for name in SERVICES]}]
    assert job["job_name"] == beside["scrape_configs"][0]["job_name"]
    assert {**own, "scrape_configs": None} == {**beside, "scrape_configs": None}


def test_grafana_finds_prometheus_and_the_dashboard(
    services: dict[str, dict[str, Any]], exposed_metrics: set[str]
) -> None:
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards.yaml").read_text())["providers"]
    targets = {volume["target"] for volume in services["grafana"]["volumes"]}
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in targets
    assert Path(home).parent == Path(provider["options"]["path"])
    text = (ROOT / "deploy/grafana/upright.json").read_text()
    assert list(metric_problems(text, exposed_metrics)) == []


# The same, running.


@dataclass
class Running:
    """The set-up on this machine, and how one of its processes is stopped and started."""

    nginx: int
    prometheus: httpx2.Client  # of its HTTP API
    stop: Callable[[], None]
    start: Callable[[], None]

    def query(self, path: str, **parameters: str) -> Any:
        return self.prometheus.get(path, params=parameters).json()["data"]

    def value(self, expression: str) -> float | None:
        result = self.query("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else None

    def alerts(self) -> dict[str, str]:
        return {
            alert["labels"]["alertname"]: alert["state"] for alert in self.query("alerts")["alerts"]
        }


@contextmanager
def prometheus(folder: Path, ports: tuple[int, int]) -> Iterator[int]:
    """Run Prometheus by the files that compose.yaml mounts, asking each second."""
    text = (FOLDER / "prometheus.yml").read_text().replace(": 15s", ": 1s")
    for name, port in zip(SERVICES, ports, strict=True):
        text = text.replace(f"{name}:8000", f"127.0.0.1:{port}")
    (folder / "prometheus.yml").write_text(text)
    rules = re.sub(r"for: \d+m", "for: 500ms", RULES.read_text())
    (folder / "alerts.yml").write_text(rules)
    own = free_port()
    command = [
        shutil.which("prometheus") or "",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{own}",
        "--log.level=warn",
    ]
    log = folder / "prometheus.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as process,
    ):
        try:
            wait_for(lambda: _is_ready(own))
            yield own
        finally:
            process.terminate()
            process.wait(20)
    warnings = [line for line in log.read_text().splitlines() if "SIGTERM" not in line]
    assert warnings == []


def _is_ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture(scope="module")
def setup(
    services: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    missing = [
        program for program in ("nginx", "prometheus") if shutil.which(program, path=PATH) is None
    ]
    if missing and not os.environ.get("CI"):
        pytest.skip(
            f"needs {missing}: apt-get install --no-install-recommends nginx-light prometheus"
        )

    folder = tmp_path_factory.mktemp("compose")
    ports = free_port(), free_port()
    replaced = ("--host=0.0.0.0", "--port=8000", "--drain=5")
    arguments = [flag for flag in services["upright-1"]["command"] if flag not in replaced]
    arguments += ["--drain", "0", "--allowed-host", "127.0.0.1"]
    text = compose_nginx.FILE.read_text()
    for address, name in compose_nginx.ADDRESSES.items():
        text = text.replace(name, address)

    with ExitStack() as whole:
        whole.enter_context(running(ports[0], folder / "first.log", *arguments))
        second = whole.enter_context(ExitStack())

        def begin() -> None:
            second.enter_context(running(ports[1], folder / "second.log", *arguments))

        begin()
        proxy = whole.enter_context(nginx(ports, text))
        own = whole.enter_context(prometheus(folder, ports))
        api = whole.enter_context(httpx2.Client(base_url=f"http://127.0.0.1:{own}/api/v1/"))
        yield Running(proxy, api, second.close, begin)


def test_http_and_streams_come_through_nginx_and_are_scraped(setup: Running) -> None:
    wait_for(lambda: setup.value('count(up{job="upright"} == 1)') == 2)
    address = f"http://127.0.0.1:{setup.nginx}"
    with httpx2.Client(base_url=address) as client:
        for _ in range(10):
            assert client.post("/act", json={"state": STATE}).json()["action"] == 1
    with connect(f"ws://127.0.0.1:{setup.nginx}/act/stream") as stream:
        stream.send(json.dumps({"state": STATE}))
        assert json.loads(stream.recv(5))["action"] == 1
        wait_for(lambda: setup.value('sum(upright_connections{kind="stream"})') == 1)
    wait_for(lambda: setup.value("sum(upright_actions_total)") == 11)
    # Both processes had their share.
    assert setup.value('count(upright_requests_total{endpoint="/act",status="200"} > 0)') == 2


def test_an_alert_fires_and_is_resolved_and_callers_notice_nothing(setup: Running) -> None:
    wait_for(lambda: setup.value('count(up{job="upright"} == 1)') == 2)
    # Others may fire on a slow machine: the times that they wait are cut to half a second here.
    wait_for(lambda: "UprightDown" not in setup.alerts())
    setup.stop()
    wait_for(lambda: setup.alerts().get("UprightDown") == "firing")
    with httpx2.Client(base_url=f"http://127.0.0.1:{setup.nginx}") as client:
        for _ in range(10):
            assert client.post("/act", json={"state": STATE}).status_code == 200
    setup.start()
    wait_for(lambda: "UprightDown" not in setup.alerts())


def test_prometheus_answers_each_query_of_the_dashboard(setup: Running) -> None:
    wait_for(lambda: setup.value('count(up{job="upright"} == 1)') == 2)
    dashboard = json.loads((ROOT / "deploy/grafana/upright.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$job", "upright").replace("$instance", ".*")
            expression = expression.replace("$__rate_interval", "5s").replace("$__range", "5s")
            assert "result" in setup.query("query", query=expression), expression
