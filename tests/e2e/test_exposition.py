"""The metrics as Prometheus reads them: by its own parser, and by promtool."""

import re
import subprocess
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.fetching import promtool

UNITS = re.compile(r"_(ms|millis|milliseconds|minutes|kb|mb|gib|percent)(_|$)")


@pytest.fixture(scope="module")
def exposition(server):
    server.post("/v1/responses", {"input": "Hello", "max_output_tokens": 4})
    with urllib.request.urlopen(server.url + "/metrics") as answer:
        return answer.read().decode()


def test_promtool_has_no_complaint(exposition):
    done = subprocess.run([promtool(), "check", "metrics"], input=exposition, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_family_is_as_prometheus_wants_it(exposition):
    families = list(text_string_to_metric_families(exposition))
    names = [family.name for family in families]
    assert len(names) == len(set(names)) > 20
    for family in families:
        assert re.fullmatch(r"chatpager_[a-z0-9_]+", family.name)
        assert family.documentation and not UNITS.search(family.name), family.name
        seen = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(seen) == len(set(seen)), "a sample is told once"
        for sample in family.samples:
            assert sample.value >= 0, sample
            ending = sample.name.removeprefix(family.name)
            known = {"counter": ("_total", "_created"), "gauge": ("",)}
            assert ending in known.get(family.type, ("_bucket", "_count", "_sum", "_created")), sample


def test_buckets_of_a_histogram_grow_to_its_count(exposition):
    histograms = [f for f in text_string_to_metric_families(exposition) if f.type == "histogram"]
    assert histograms
    for family in histograms:
        of = {}
        for sample in family.samples:
            labels = tuple((k, v) for k, v in sorted(sample.labels.items()) if k != "le")
            of.setdefault(labels, []).append(sample)
        for samples in of.values():
            buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
            assert buckets == sorted(buckets) and buckets[-1][0] == float("inf")
            assert [value for _, value in buckets] == sorted(value for _, value in buckets)
            [count] = [s.value for s in samples if s.name.endswith("_count")]
            assert buckets[-1][1] == count


def test_the_hit_rate_is_what_receipts_say(server):
    def counted():
        with urllib.request.urlopen(server.url + "/metrics") as answer:
            samples = [s for f in text_string_to_metric_families(answer.read().decode()) for s in f.samples]
        value = {s.name: s.value for s in samples if not s.labels}
        return value["chatpager_prefix_cache_queried_tokens_total"], value["chatpager_prefix_cache_hit_tokens_total"]

    before = counted()
    story = "I like tea and rain, and my dog is called Rex."
    first = server.post("/v1/responses", {"input": story, "max_output_tokens": 4})
    second = server.post("/v1/responses", {"input": "Go on.", "previous_response_id": first["id"]})
    queried, hit = (after - then for after, then in zip(counted(), before, strict=True))
    usages = [one["usage"] for one in (first, second)]
    assert queried == sum(usage["input_tokens"] for usage in usages)
    assert hit == sum(usage["input_tokens_details"]["cached_tokens"] for usage in usages) > 0
