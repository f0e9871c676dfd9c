"""Alerts fire where they should, and nothing asks for a name that the service does not expose."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.observability.test_metrics import STATE
from tests.support.metrics import ask_by_grpc
from tests.support.pages import anchors
from tests.support.project import ROOT
from tests.support.service import Start, free_port

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "upright.json"


def promtool(*arguments: str) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    result = subprocess.run(
        [program, *arguments],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def panels() -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return values


def expressions() -> Iterator[str]:
    """Give every query of the dashboard, with values in the place of Grafana's variables."""
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    asked += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    for expression in asked:
        yield (
            expression.replace("$job", "upright")
            .replace("$instance", ".*")
            .replace("$__rate_interval", "5m")
        )


def test_prometheus_takes_the_configuration_and_the_alerts() -> None:
    assert "prometheus.yml is valid" in promtool("check", "config", "prometheus.yml")


def test_each_alert_fires_where_it_should_and_is_quiet_where_it_should_be() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_each_alert_is_tested_both_ways_and_described() -> None:
    alerts = re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text())
    tests = (PROMETHEUS / "alerts_test.yml").read_text()
    for alert in alerts:
        assert f"alertname: {alert}}}" in tests, f"{alert} is nowhere quiet"
        assert f"alertname: {alert}\n        exp_alerts:" in tests, f"{alert} fires nowhere"
        assert f"`{alert}`" in (ROOT / "deploy" / "README.md").read_text()


def test_each_alert_leads_to_its_runbook() -> None:
    for name in ("alerts.yml", "alerts_test.yml"):
        text = (PROMETHEUS / name).read_text()
        alerts = set(re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text()))
        runbooks = re.findall(r"runbook_url: (\S+)", text)
        assert sorted(set(runbooks)) == sorted(
            f"docs/observe.md#{alert.lower()}" for alert in alerts
        )
        assert set(runbooks) == {
            f"docs/observe.md#{anchor}"
            for anchor in anchors(ROOT / "docs" / "observe.md")
            if anchor.startswith("upright")
        }


def test_prometheus_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(
        json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})
    )  # JSON is YAML too
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_panels_have_a_place_of_their_own_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_name_that_is_asked_for_is_one_that_the_service_exposes(start: Start) -> None:
    port = free_port()
    with start("--grpc-port", str(port)) as address:
        httpx2.post(f"{address}/act", json={"state": STATE})
        ask_by_grpc(port)
        text = httpx2.get(f"{address}/metrics").text
    exposed: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            exposed.setdefault(sample.name, set()).update(sample.labels)
    asked = "\n".join(
        [
            *expressions(),
            *((PROMETHEUS / name).read_text() for name in ("alerts.yml", "alerts_test.yml")),
        ]
    )
    used = re.findall(r"\b((?:upright|process)_[a-z_]+)(?:\{([^}]*)\})?", re.sub(r"#.*", "", asked))
    assert len(used) > 40
    for name, selector in used:
        assert name in exposed, f"{name} is exposed by nothing"
        labels = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", selector))
        assert labels <= exposed[name] | {"job", "instance"}, f"{name} has no {labels}"
