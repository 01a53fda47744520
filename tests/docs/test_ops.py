"""The files of docs/ops: what they name is there, and what they promise they say."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from chatpager.cli.app import app
from chatpager.config import ServerConfig
from chatpager.server.metrics import Metrics
from tests.docs.test_pages import labels_of
from tests.engine.fakes import make_engine
from tests.processes import ROOT

OPS = ROOT / "docs" / "ops"
COMPOSE = yaml.safe_load((OPS / "compose.yaml").read_text())
SERVERS = yaml.safe_load((OPS / "servers.yaml").read_text())
DASHBOARD = json.loads((OPS / "grafana" / "chatpager.json").read_text())
SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD")


def instructions():
    """Of the Dockerfile, in order: (word, the rest)."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (OPS / "Dockerfile").read_text(), flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def test_the_image_is_of_a_user_without_rights_looks_after_itself_and_holds_no_key():
    found = instructions()
    words = dict(found)
    assert int(words["USER"]) > 0
    assert found.index(("USER", words["USER"])) > max(i for i, (word, _) in enumerate(found) if word == "RUN")
    assert "/health/ready" in words["HEALTHCHECK"]
    assert json.loads(words["VOLUME"]) == ["/data", "/models"]
    assert "-c .ci/constraints.txt" in next(rest for word, rest in found if "pip install" in rest)
    assert not [rest for word, rest in found if word in ("ARG", "ENV") and SECRET.search(rest)]
    assert "docs/ops/api_key" in (ROOT / ".dockerignore").read_text().split()
    assert "/docs/ops/api_key" in (ROOT / ".gitignore").read_text().split()


def test_the_check_of_its_health_runs(server_url):
    url = server_url.removeprefix("http://")
    *_, code = json.loads(dict(instructions())["HEALTHCHECK"].partition("CMD ")[2])
    for address, ends in ((url, 0), ("127.0.0.1:9", 1)):
        done = subprocess.run([sys.executable, "-c", code.replace("127.0.0.1:8000", address)], capture_output=True)
        assert done.returncode == ends, done.stderr


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("NOT LINTED: hadolint is not installed")
    done = subprocess.run([hadolint, "--no-color", OPS / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def mounts(service):
    return dict(volume.split(":")[:2] for volume in service.get("volumes", ()))


def test_what_compose_mounts_is_there_and_where_it_is_looked_for():
    services = COMPOSE["services"]
    build = services["chatpager"]["build"]
    context = OPS / build["context"]
    assert (context / build["dockerfile"]).resolve() == OPS / "Dockerfile"
    assert context.resolve() == ROOT
    for service in services.values():
        for source in mounts(service):
            assert (OPS / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"], source
    grafana = mounts(services["grafana"])
    [provider] = yaml.safe_load((OPS / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert Path(grafana["./grafana/chatpager.json"]).parent == Path(provider["options"]["path"])
    [source] = yaml.safe_load((OPS / "grafana" / "datasource.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    [job] = yaml.safe_load((OPS / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["chatpager:8000"]
    secret = services["chatpager"]["environment"]["CHATPAGER_API_KEY_FILE"]
    assert job["authorization"]["credentials_file"] == secret == "/run/secrets/api_key"
    assert services["prometheus"]["secrets"] == services["chatpager"]["secrets"] == list(COMPOSE["secrets"])


def test_compose_gives_the_drain_its_time_and_opens_nothing_to_others():
    services = COMPOSE["services"]
    assert float(services["chatpager"]["stop_grace_period"].removesuffix("s")) > ServerConfig().drain_seconds
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service.get("profiles", ["monitoring"]) == ["monitoring"]
        assert not [v for k, v in service.get("environment", {}).items() if SECRET.search(k) and not k.endswith("FILE")]
    assert "profiles" not in services["chatpager"]


def test_servers_that_share_a_database_have_all_else_of_their_own():
    services = SERVERS["services"]
    one, other = services["one"], services["other"]
    assert one["command"] == other["command"] and "--share-database" in one["command"]
    assert one["build"] == COMPOSE["services"]["chatpager"]["build"]
    assert one["environment"]["CHATPAGER_DATABASE_URL"].endswith("@postgres/chatpager")
    assert float(one["stop_grace_period"].removesuffix("s")) > ServerConfig().drain_seconds
    folders = [{inside: volume for volume, inside in mounts(service).items()}["/data"] for service in (one, other)]
    assert len(set(folders)) == 2
    assert {volume for service in services.values() for volume in mounts(service)} == set(SERVERS["volumes"])
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(set(ports)) == 2 and all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize(
    "words",
    [
        json.loads(dict(instructions())["CMD"]),
        COMPOSE["services"]["chatpager"]["command"],
        SERVERS["services"]["one"]["command"],
    ],
    ids=shlex.join,
)
def test_what_they_start_is_a_command(words):
    get_command(app).commands[words[0]].make_context(words[0], list(words[1:])).close()


def queries():
    return [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def grouped(query):
    return {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}


@pytest.fixture(scope="module")
def exported():
    """What /metrics names, each with its labels."""
    metrics = Metrics()
    metrics.render({"r0": make_engine().stats()})
    found = {}
    for family in metrics.registry.collect():
        labels = set(labels_of(metrics, family))
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}[family.type]
        found |= {f"{family.name}{ending}": labels | ({"le"} if ending == "_bucket" else set()) for ending in endings}
    return found


@pytest.mark.parametrize(("title", "query"), queries())
def test_every_query_of_the_dashboard_is_of_what_is_exported(exported, title, query):
    used = re.findall(r"chatpager_\w+", query)
    assert used and set(used) <= set(exported), query
    labels = {label for name in used for label in exported[name]}
    chosen = set(re.findall(r'(\w+)="', query))
    assert grouped(query) | chosen <= labels, query


def test_the_dashboard_is_laid_out_without_holes_in_its_ids():
    panels = DASHBOARD["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    for target in (target for panel in panels for target in panel["targets"]):
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped(target["expr"])
