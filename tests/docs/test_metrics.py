"""What is written about metrics, and Grafana's dashboard, compared with what the parts serve."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import icefarm_agent.metrics
import icefarm_control.metrics

ROOT = Path(__file__).parents[2]
REGISTRIES = (icefarm_control.metrics.REGISTRY, icefarm_agent.metrics.REGISTRY)
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def served(registry: CollectorRegistry) -> dict[str, tuple[str, str]]:
    """The kind and the meaning of each metric of ours, by its name."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            family.documentation,
        )
        for family in registry.collect()
        if family.name.startswith("icefarm_")
    }


METRICS = {name: about for registry in REGISTRIES for name, about in served(registry).items()}


def labels_of(name: str) -> set[str]:
    """As the metric was declared, whether it has a value yet or not."""
    for module in (icefarm_control.metrics, icefarm_agent.metrics):
        for metric in vars(module).values():
            if getattr(metric, "_name", None) == name.removesuffix("_total"):
                return set(metric._labelnames)
    declared = {
        "icefarm_boards": {"status"},
        "icefarm_reservations": {"status"},
        "icefarm_agents": {"status"},
        "icefarm_control_broker_connected": {"connection"},
        "icefarm_agent_stream_bytes_total": {"direction"},
    }
    return declared.get(name, set())


def test_the_guide_has_each_metric_as_it_is() -> None:
    page = (ROOT / "docs/how-to/observe.md").read_text()
    rows = re.findall(r"^\| `(icefarm_\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", page, re.MULTILINE)
    assert {name: (kind, text) for name, kind, _, text in rows} == METRICS
    for name, _, labels, _ in rows:
        assert set(re.findall(r"`(\w+)`", labels)) == labels_of(name), name


DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/icefarm.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_query_of_grafana_is_about_a_metric_that_exists(panel: dict[str, Any]) -> None:
    series = {
        name.removesuffix("_total") + suffix: name
        for name, (kind, _) in METRICS.items()
        for suffix in _SUFFIXES[kind]
    }
    assert panel["targets"]
    for target in panel["targets"]:
        query = target["expr"]
        used = re.findall(r"icefarm_\w+", query)
        assert used
        assert set(used) <= series.keys(), query
        assert query.count("(") == query.count(")")
        [name] = {series[one] for one in used}
        named = re.findall(r"(\w+)=~?\"", query) + re.findall(r"(\w+)!=\"", query)
        for by in re.findall(r"by \(([^)]*)\)", query):
            named += by.split(", ")
        assert set(named) <= labels_of(name) | {"le", "instance"}, query
        shown = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        assert set(shown) <= set(named), "what the legend shows is kept by the query"


def test_the_dashboard_can_be_imported() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert DASHBOARD["uid"] == "icefarm"
    [source] = DASHBOARD["templating"]["list"]
    assert (source["name"], source["query"]) == ("datasource", "prometheus")
    for panel in PANELS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["description"]
    places = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + line)
        for panel in DASHBOARD["panels"]
        for column in range(panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places)), "no panel lies over another"
    assert max(x for x, _ in places) < 24


def test_each_metric_is_on_the_dashboard() -> None:
    queries = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    shown = set(re.findall(r"icefarm_\w+", queries))
    missing = {
        name
        for name, (kind, _) in METRICS.items()
        if not any(name.removesuffix("_total") + suffix in shown for suffix in _SUFFIXES[kind])
    }
    assert missing == set()
