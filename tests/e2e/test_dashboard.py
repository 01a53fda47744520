"""The Grafana dashboard as Grafana's own types read it, and its queries as Prometheus computes them."""

import json
import re
import subprocess
import sys
import urllib.request

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.fetching import package, promtool
from tests.processes import ROOT, clean_env

DASHBOARD = json.loads((ROOT / "docs" / "ops" / "grafana" / "chatpager.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
STORIES = ("I like coffee and snow, and my cat is called Tom.", "I like tea and rain, and my dog is called Rex.")
READ = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
register_default_plugins()
print(JSONEncoder().encode(Dashboard.from_json(json.load(sys.stdin))))
"""
INTERVAL, SCRAPES = "10s", 7
"""The first six of a minute come before what is measured, the last behind it."""


def lost(given, read, place=""):
    """What was given and is not there once it was read."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [found for key in given for found in lost(given[key], read.get(key), f"{place}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        pairs = enumerate(zip(given, read, strict=True))
        return [found for i, (mine, theirs) in pairs for found in lost(mine, theirs, f"{place}[{i}]")]
    return [] if given == read else [f"{place}: {given!r} was read as {read!r}"]


def imported(dashboard, home):
    folder = package("grafana-11")
    env = clean_env(home, PYTHONPATH=str(folder))
    return subprocess.run(
        [sys.executable, "-c", READ], input=json.dumps(dashboard), capture_output=True, text=True, env=env
    )


def test_grafana_s_types_know_every_field_of_it(tmp_path):
    done = imported(DASHBOARD, tmp_path)
    assert done.returncode == 0, done.stderr
    assert lost(DASHBOARD, json.loads(done.stdout)) == []
    misspelt = json.loads(json.dumps(DASHBOARD).replace('"legendFormat"', '"legendformat"'))
    assert lost(misspelt, json.loads(imported(misspelt, tmp_path).stdout)), "this would be seen"


def expression(query):
    """A panel's query without Grafana's variables."""
    return query.replace("$__rate_interval", "1m")


def prometheus(*words):
    """The exit code of its tool, and what that says."""
    done = subprocess.run([promtool(), *words], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_prometheus_reads_every_query(tmp_path):
    queries = [expression(target["expr"]) for panel in PANELS.values() for target in panel["targets"]]
    assert len(queries) >= len(PANELS) and not [query for query in queries if "$" in query]
    file = tmp_path / "rules.yaml"
    for more, code in (([], 0), (["sum(rate(chatpager_turns_total[1m])"], 1)):
        rules = [{"record": f"panel:{i}", "expr": query} for i, query in enumerate([*queries, *more])]
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        ended, said = prometheus("check", "rules", str(file))
        assert ended == code, said


def scrape(server):
    """The samples, by their names as PromQL writes them; and the server's own account."""
    with urllib.request.urlopen(server.url + "/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sample.labels.items())
        samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples, server.get("/health")["cache"]


def test_every_query_is_of_what_a_running_server_exports(server):
    server.post("/v1/responses", {"input": "Hello", "max_output_tokens": 4})
    with urllib.request.urlopen(server.url + "/metrics") as answer:
        text = answer.read().decode()
    there = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    for panel in PANELS.values():
        for target in panel["targets"]:
            used = {re.sub("_bucket$", "", name) for name in re.findall(r"chatpager_\w+", target["expr"])}
            assert used and used <= there, target["expr"]


@pytest.fixture(scope="module")
def scrapes(server):
    """One on either side of a conversation. There is one before them, too: ``rate`` extrapolates to the ends of its
    window, but no counter to below zero, and so differently for counters that have just begun."""
    return [scrape(server) for story in STORIES if talk(server, story)]


def talk(server, story):
    first = server.post("/v1/responses", {"input": story, "max_output_tokens": 4})
    more = {"previous_response_id": first["id"], "max_output_tokens": 4}
    return server.post("/v1/responses", {"input": "Go on.", **more})["usage"]


@pytest.mark.parametrize("kind", ["stat", "timeseries"])
def test_the_hit_rate_is_the_server_s_own_within_a_hundredth(scrapes, tmp_path, kind):
    (before, told_before), (after, told) = scrapes
    asked, hit = (told[name] - told_before[name] for name in ("queried_tokens", "hit_tokens"))
    assert 0 < hit < asked
    [panel] = [p for p in DASHBOARD["panels"] if (p["title"], p["type"]) == ("Hit rate", kind)]
    query = expression(panel["targets"][0]["expr"])
    names = re.findall(r"chatpager_\w+", query)
    series = [
        {"series": name, "values": f"{before[name]:.0f} " * (SCRAPES - 1) + f"{value:.0f}"}
        for name, value in after.items()
        if name.partition("{")[0] in names
    ]
    assert len(series) == 2
    file = tmp_path / "hit-rate.yaml"
    for rate, code in ((hit / asked, 0), (hit / asked * 1.02, 1)):
        check = {
            "expr": f"abs({query} - {rate}) < bool {rate / 100}",
            "eval_time": "1m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        test = {"interval": INTERVAL, "input_series": series, "promql_expr_test": [check]}
        file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": INTERVAL, "tests": [test]}))
        ended, said = prometheus("test", "rules", str(file))
        assert ended == code, said
