"""What the scoring actor reports, scraped from a real Ray, and a dashboard that asks for nothing else."""

import json
import re
import socket
import subprocess
import sys

import pytest

from tests.conftest import ROOT

DASHBOARD = ROOT / "cluster" / "grafana" / "semtag.json"
OURS = {"texts_total", "tokens_total", "candidates_total", "rejects_total", "mean_score"}

# In a process of its own, as Ray reads where to listen when it is imported. Two batches go through the real actor.
SCRAPE = """
import os, sys, time, urllib.request

from semtag.cluster.ray_session import LOOPBACK, Tally

os.environ |= LOOPBACK
import pyarrow as pa
import ray
import ray.data

from semtag.configs.schema import Prompt
from semtag.configs.scoring import Scoring
from semtag.generation.records import SampledText, read_candidate, to_table
from semtag.scoring.scorer import Scorer

port = sys.argv[1]
ray.init(
    num_cpus=2,
    include_dashboard=False,
    object_store_memory=100 * 2**20,
    _metrics_export_port=int(port),
    _system_config={"metrics_report_interval_ms": 1000},
)


def row(number, completions, reason):
    candidates = [read_candidate(Prompt(), i, text, "stop", num_tokens=5) for i, text in enumerate(completions)]
    return SampledText(number, "A steam engine.", None, "{}", "plain", candidates=candidates, reason=reason)


rows = [
    row(0, ["[steam]", "Tags: [engine]", "none"], None),
    row(1, ["[steam]"], None),
    row(2, [], "too_long"),
]
scorer = {"scoring": Scoring(model="all-MiniLM-L6-v2"), "tally": Tally()}
blocks = [to_table(rows[:1]), to_table(rows[1:])]
ray.data.from_arrow(blocks).map_batches(
    Scorer,
    fn_constructor_kwargs=scorer,
    batch_size=None,
    batch_format="pyarrow",
    compute=ray.data.ActorPoolStrategy(size=1),
).materialize()
deadline = time.monotonic() + 60
while True:
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    if (all(f"ray_semtag_{name}" in page for name in sys.argv[2:]) and "ray_data_num_alive_actors" in page) or (
        time.monotonic() > deadline
    ):
        break
    time.sleep(1)
print(page)
"""

Samples = list[tuple[str, dict[str, str], float]]


@pytest.fixture(scope="module")
def scraped() -> Samples:
    """(name, labels, value) of all that a local Ray exports after a run of the scoring actor."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SCRAPE, str(port), *sorted(OURS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", done.stdout, re.MULTILINE)
    return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for name, labels, value in found]


def total(scraped: Samples, name: str, **labels: str) -> float:
    return sum(value for found, has, value in scraped if found == name and labels.items() <= has.items())


def test_every_text_is_counted_once(scraped: Samples) -> None:
    assert total(scraped, "ray_semtag_texts_total") == 3
    assert total(scraped, "ray_semtag_tokens_total") == 4 * 5
    assert [total(scraped, "ray_semtag_candidates_total", format=f) for f in ("valid", "repaired", "invalid")] == [
        2,
        1,
        1,
    ]
    assert total(scraped, "ray_semtag_rejects_total") == 1
    assert total(scraped, "ray_semtag_rejects_total", reason="too_long") == 1
    assert 0.2 < total(scraped, "ray_semtag_mean_score") <= 1


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def exported(scraped: Samples) -> dict[str, set[str]]:
    """Metric -> its labels. Ray exports a GPU's only where there is one, so those come from the list it goes by."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    labels: dict[str, set[str]] = {}
    for name, has, _ in scraped:
        labels.setdefault(name, set()).update(has)
    for name, gauge in METRICS_GAUGES.items():
        if name.startswith(("node_gpus_", "node_gram_")):
            labels.setdefault(f"ray_{name}", set()).update(map(str, gauge.view.columns))
    return labels


def unknown(query: str, known: dict[str, set[str]]) -> set[str]:
    """Metrics of a query that nothing exports, and labels that its metrics do not have."""
    names = set(re.findall(r"\bray_\w+", query))
    missing = names - set(known)
    asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query))
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        asked |= {label.strip() for label in group.split(",")}
    # Prometheus itself adds the instance.
    return missing | {label for name in names - missing for label in asked - known[name] - {"instance"}}


def test_the_dashboard_asks_only_for_what_is_exported(scraped: Samples) -> None:
    known = exported(scraped)
    assert {query: wrong for query in queries() if (wrong := unknown(query, known))} == {}


def test_the_dashboard_shows_all_that_we_export() -> None:
    asked = set(re.findall(r"ray_semtag_(\w+)", " ".join(queries())))
    assert asked == OURS


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("sum(rate(ray_semtag_text_total[1m]))", {"ray_semtag_text_total"}),
        ("sum by (kind) (rate(ray_semtag_candidates_total[1m]))", {"kind"}),
        ('ray_semtag_rejects_total{cause="x"}', {"cause"}),
    ],
)
def test_a_wrong_query_is_found(scraped: Samples, query: str, wrong: set[str]) -> None:
    assert unknown(query, exported(scraped)) == wrong
