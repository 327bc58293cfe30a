"""The dashboard and the alerts ask for what is exported, and for nothing else."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sansio_cache_prometheus import alert_rules, dashboard, export
from sansio_cache_redis.sync import Cache

DASHBOARD = json.loads(dashboard())
RULES = [rule for group in yaml.safe_load(alert_rules())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


@pytest.fixture(scope="module")
def exported():
    """The names of samples on a fresh page, with the names of their labels."""
    registry = CollectorRegistry()
    with Cache.from_url("memory://", namespace="n") as cache:
        export(cache, registry=registry)
        text = generate_latest(registry).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def filled(expression):
    """A query of the dashboard as Grafana would send it."""
    text = expression.replace("$__rate_interval", "5m")
    return re.sub(r"\$(\w+)", lambda name: ".*" if name[1] in VARIABLES else name[0], text)


def asked(node):
    """What a query asks for: the names of samples, with the labels that it picks, and those it groups by."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {matcher.name for matcher in node.matchers.matchers}
    for part in ("expr", "lhs", "rhs", "param", "vector_selector", "vs"):
        inner = getattr(node, part, None)
        if isinstance(inner, promql_parser.Expr):
            yield from asked(inner)
    for inner in getattr(node, "args", None) or ():
        yield from asked(inner)


def grouped_by(text):
    return {
        name.strip() for names in re.findall(r"\b(?:by|on) ?\(([^)]*)\)", text) for name in names.split(",")
    }


def check(text, exported):
    """Complain of a query that does not resolve."""
    found = list(asked(promql_parser.parse(text)))
    assert found, text
    for name, labels in found:
        assert name in exported, f"{name} is not exported: {text}"
        assert labels <= exported[name], text
        assert grouped_by(text) <= exported[name] | {"le"}, text
    return {name for name, _ in found}


def queries():
    for panel in PANELS:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule["alert"])


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_resolves(query, exported):
    check(filled(query), exported)


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(rate(sansio_cache_hits_total[5m]))",
        'sansio_cache_connections{entity="a"}',
        "sum by (entity) (sansio_cache_connections)",
        "rate(sansio_cache_redis_hits[5m])",
    ],
)
def test_a_query_that_does_not_resolve_is_found(wrong, exported):
    with pytest.raises(AssertionError):
        check(wrong, exported)


def test_the_variables_of_the_dashboard_resolve(exported):
    for name in ("cache", "entity"):
        query = VARIABLES[name]["query"]["query"]
        inner, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
        assert label == name
        [(metric, labels)] = asked(promql_parser.parse(filled(inner)))
        assert labels | {label} <= exported[metric]


def test_the_dashboard_shows_everything_that_is_exported(exported):
    shown = set()
    for panel in PANELS:
        for target in panel["targets"]:
            shown |= check(filled(target["expr"]), exported)
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert families == {re.sub("_(bucket|sum|count)$", "", name) for name in exported}


def lost(ours, theirs, at=""):
    """Where one who has read what we wrote does not say it again, in paths."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            if name in theirs:
                yield from lost(value, theirs[name], f"{at}.{name}")
            else:
                yield f"{at}.{name}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(*pair, f"{at}[{place}]")
    elif ours != theirs:
        yield f"{at}: {theirs}"


def read_by_grafana(written):
    """A dashboard as the classes of Grafana's own kit take it in, and write it again."""
    plugins.register_default_plugins()
    return json.loads(JSONEncoder().encode(GrafanaDashboard.from_json(written)))


def test_grafana_reads_the_dashboard_as_it_is_written():
    """What its kit does not know is dropped: a name that is spelt wrong would be."""
    read = read_by_grafana(DASHBOARD)
    # Grafana itself writes this beside the query of a variable. Its kit leaves it out.
    assert {re.sub(r"\[\d+\]", "[]", path) for path in lost(DASHBOARD, read)} == {
        ".templating.list[].definition"
    }
    assert [panel["type"] for panel in read["panels"]] == [panel["type"] for panel in DASHBOARD["panels"]]
    assert 39 <= DASHBOARD["schemaVersion"] <= read_by_grafana({})["schemaVersion"], "from 10.4 to 11.6"


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (".panels[1].fieldConfg", {"fieldConfg": {"defaults": {}}}),
        (".panels[1].targets[0].query", {"targets": [{"query": "up", "datasource": {"type": "prometheus"}}]}),
        (".panels[1].options.colourMode", {"options": {"colourMode": "value"}}),
    ],
)
def test_what_grafana_would_not_read_is_found(path, wrong):
    panels = list(DASHBOARD["panels"])
    panels[1] = {**panels[1], **wrong}
    changed = {**DASHBOARD, "panels": panels}
    assert path in set(lost(changed, read_by_grafana(changed)))


def test_panels_have_places_of_their_own_and_say_what_they_show():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert max(x for x, _ in taken) == 23


def test_every_alert_says_how_bad_it_is_and_what_to_do(exported):
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 8
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert named <= grouped_by(rule["expr"]), rule["alert"]


def test_the_page_has_a_row_for_each_alert():
    page = (Path(__file__).parents[2] / "docs" / "howto" / "monitor-with-prometheus.md").read_text()
    assert re.findall(r"^\| `(SansioCache\w+)` \|", page, re.MULTILINE) == [rule["alert"] for rule in RULES]
