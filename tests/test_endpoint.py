"""Candidates from a server with OpenAI's API: a troubled one on loopback, and vLLM's own."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from semtag.cluster.progress import NoTally
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Budget, Config
from semtag.generation import endpoint as endpoints
from semtag.generation.budget import Purse
from semtag.generation.decoding import Decoding, candidates
from semtag.generation.endpoint import KEY, Endpoint
from semtag.generation.pace import Pace
from semtag.generation.records import SampledText, from_table, to_table
from semtag.generation.sampler import Sampler, engine_environment
from semtag.store.parquet import read_rows
from semtag.store.run_dir import RunDir
from semtag.tagger import Tagger
from tests.chat_server import READ, SAMPLES, SECRET, WRITTEN, serving
from tests.conftest import ROOT, TINY, semtag, tiny_demo, tiny_model
from tests.test_submit import free_ports


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_WAIT", 0.001)
    monkeypatch.setenv(KEY, SECRET)


def config_of(url: str, *overrides: str) -> Config:
    asked = ["sampling.engine=openai", f"sampling.endpoint={url}", "sampling.served_model=some/model"]
    return load_config(ROOT / "configs" / "demo.yaml", [*TINY, f"sampling.samples={SAMPLES}", *asked, *overrides])


def texts(*more: str, number: int = 16) -> list[SampledText]:
    words = [f"All about subject{place}" for place in range(number)]
    return [SampledText(place, text, None, "{}", "candidates") for place, text in enumerate([*words, *more])]


def sampled_by(url: str, rows: list[SampledText], *overrides: str, at_once: bool = True) -> list[SampledText]:
    """The rows with what an actor gives them, in two batches: at once, or one after the other."""
    config = config_of(url, *overrides)

    async def ask() -> list[SampledText]:
        engine = Endpoint(config, tiny_model(), [candidates(config, first_round=True)], NoTally())
        half = len(rows) // 2
        first, second = engine(to_table(rows[:half])), engine(to_table(rows[half:]))
        done = await asyncio.gather(first, second) if at_once else [await first, await second]
        return [row for table in done for row in from_table(table)]

    return asyncio.run(ask())


TROUBLES = ["429", "500", "cut", "none", "type", "no choices", "null", "page"]


@pytest.mark.parametrize("most", [SAMPLES, 2, 1])
def test_a_troubled_server_costs_nothing_but_time(most: int) -> None:
    with serving() as calm:
        expected = sampled_by(calm.url, texts())
    with serving(*TROUBLES, most=most) as server:
        found = sampled_by(server.url, texts())
        assert server.met.keys() == {*TROUBLES}
        assert server.keys == {f"Bearer {SECRET}"}
    assert found == expected
    assert [row.text_id for row in found] == [*range(16)] and {row.reason for row in found} == {None}
    for row in found:
        assert [one.sample for one in row.candidates] == [*range(SAMPLES)]
        subject, seeds = {one.tags[0] for one in row.candidates}, [int(one.tags[1]) for one in row.candidates]
        assert subject == {f"subject{row.text_id}"} and seeds == [*range(seeds[0], seeds[0] + SAMPLES)]
        assert {(one.format, one.finish_reason, one.token_ids, one.logprob) for one in row.candidates} == {
            ("valid", "stop", None, None)
        }


def test_a_server_that_refuses_many_samples_is_asked_for_each() -> None:
    with serving("many") as server:
        found = sampled_by(server.url, texts(number=10), at_once=False)
    assert Counter(asked["n"] for asked in server.asked) == {SAMPLES: 5, 1: 10 * SAMPLES}  # of the first batch alone
    assert all(len(row.candidates) == SAMPLES for row in found)


def test_a_text_that_the_server_refuses_or_fails_at_costs_no_other() -> None:
    with serving("none", "500") as server:
        found = sampled_by(server.url, texts("all about poison", "a forbidden word"))
    reasons = {row.text: (row.reason, row.detail) for row in found if row.reason}
    assert reasons.keys() == {"all about poison", "a forbidden word"}
    assert {reason for reason, _ in reasons.values()} == {"refused_by_engine"}
    assert "requests failed" in str(reasons["all about poison"][1])
    assert "not that word" in str(reasons["a forbidden word"][1])


@pytest.mark.parametrize(
    ("trouble", "said", "cure"),
    [
        ("key", "refused the key (HTTP 401)", f"Set {KEY}"),
        ("echo", "no model for ***", "Check sampling.endpoint and sampling.served_model"),
        ("no money", "insufficient_quota", "The same command resumes the run"),
        ("page", "has answered nothing for 0.01 minutes", "The same command resumes the run"),
        ("429", "has answered nothing for 0.01 minutes", "The same command resumes the run"),
    ],
)
def test_what_the_user_must_mend_ends_the_work_in_words(trouble: str, said: str, cure: str) -> None:
    with serving(trouble) as server, pytest.raises(UserError) as caught:
        sampled_by(server.url, texts(), "sampling.hang_minutes=0.01")
    assert said in str(caught.value) and cure in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1 has answered nothing"):
        sampled_by("http://127.0.0.1:9/v1", texts(), "sampling.hang_minutes=0.01")


def test_the_request_says_how_to_sample() -> None:
    with serving() as server:
        sampled_by(server.url, texts(number=1), "sampling.constrained=true", "sampling.top_k=20", "sampling.top_p=0.9")
        [asked] = server.asked
    assert (asked["model"], asked["n"], asked["top_p"], asked["top_k"]) == ("some/model", SAMPLES, 0.9, 20)
    assert asked["structured_outputs"] == {"regex": asked["regex"]}
    roles = [message["role"] for message in asked["messages"]]
    assert roles[-5:] == ["user", "assistant", "user", "assistant", "user"]  # round 1 shows the two examples


def test_requests_in_flight_follow_the_server() -> None:
    """By hand: 8, widened by 1/8 and by 8/65, halved once for two refusals of one time, then again by a later one."""
    pace = Pace(64)
    began = time.monotonic()
    pace.answered(began)
    pace.answered(began)
    assert pace.width == pytest.approx(8 + 1 / 8 + 8 / 65)
    pace.refused(began, 0)
    width = pace.width
    pace.refused(began, 0)
    assert pace.width == width == pytest.approx((8 + 1 / 8 + 8 / 65) / 2)
    pace.refused(time.monotonic(), 0)
    assert pace.width == width / 2
    slow = Pace(64)
    slow.answered(time.monotonic() - 0.01)
    slow.answered(time.monotonic() - 60)
    assert slow.width == pytest.approx(8 + 1 / 8)  # the second answer took too long to ask for more
    narrow = Pace(2)
    narrow.answered(time.monotonic())
    assert narrow.width == 2


@pytest.mark.parametrize("url", ["ftp://host/v1", "http://user:secret@host/v1", "host:8000"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="is not the URL of a server"):
        config_of(url)
    with pytest.raises(UserError, match=r"needs sampling\.endpoint"):
        load_config(ROOT / "configs" / "demo.yaml", [*TINY, "sampling.engine=openai"])


def test_tokens_are_set_aside_and_counted_after() -> None:
    purse = Purse(Budget(tokens=1000), actors=2)
    assert purse.take(300, 100) and not purse.take(100, 1)
    purse.correct(-200, -100)  # the request used 100
    assert purse.take(300, 100) and not purse.take(1, 0)
    dear = Purse(Budget(cost=0.01, price_read=1.0, price_written=10.0), actors=1)
    assert dear.take(5000, 500) and not dear.take(1, 0)
    assert all(Purse(Budget(), 1).take(10**9, 10**9) for _ in range(2))


def test_a_text_that_the_budget_has_no_room_for_does_not_come_back() -> None:
    """A request sets aside its prompt and its longest answers, so what is bought never exceeds the budget."""
    used = READ + SAMPLES * WRITTEN
    with serving("none", "429") as server:
        found = sampled_by(server.url, texts(), f"sampling.budget.tokens={6 * used}", at_once=False)
        bought = server.met["none"] * used
    assert 1 <= len(found) < 16 and bought <= 6 * used
    assert [row.text_id for row in found] == sorted({row.text_id for row in found})
    assert all(len(row.candidates) == SAMPLES and row.reason is None for row in found)
    with serving() as server:
        assert sampled_by(server.url, texts(), "sampling.budget.tokens=5") == [] and not server.asked


def test_a_tagger_asks_a_server_and_reads_a_document_in_parts(tmp_path: Path) -> None:
    with serving("none", "429") as server:
        how = {"engine": "openai", "endpoint": server.url, "served_model": "some/model"}
        with Tagger(tiny_model(), sampling=how, data={"max_words": 6}) as tagger:
            short, long = tagger(
                ["All about mills", "A story about mills. More about mills. And now something about boats."]
            )
    assert (short.tags[0], long.tags[0], len(long.tags), long.format) == ("mills", "mills.", 2, "valid")
    asked = {one["messages"][-1]["content"].partition(": ")[2] for one in server.asked}
    assert asked == {"All about mills", "A story about mills.", "More about mills.", "And now something about boats."}


@pytest.mark.cluster
def test_a_run_by_a_server_is_ranked_paired_and_verified(tmp_path: Path) -> None:
    """A key that stands in the environment is in none of the run's files, and in nothing that was printed."""
    with serving("429", "none", "500", "none") as server:
        asked = ["sampling.engine=openai", f"sampling.endpoint={server.url}", "sampling.served_model=some/model"]
        arguments = tiny_demo(tmp_path, *asked, "rounds.count=1")
        poor = semtag("rank", *arguments, "sampling.budget.tokens=3000")
        assert poor.returncode == 2, poor.stdout + poor.stderr
        assert "sampling.budget is used up" in poor.stdout
        kept = {row["text"] for row in read_rows(RunDir(tmp_path / "demo").layout.round(1).sampled)}
        before, said = len(server.asked), [poor.stdout + poor.stderr]
        for stage in ("rank", "pairs"):
            done = semtag(stage, *arguments)
            said.append(done.stdout + done.stderr)
            assert done.returncode == 0, said[-1]
        assert "texts were done before and are kept" in said[1]
        again = " ".join(asked["messages"][-1]["content"] for asked in server.asked[before:])
        assert kept and not [text for text in kept if text in again]
        assert f"from some/model at {server.url}" in said[0] and "tokens bought" in said[1]
        (tmp_path / "news.jsonl").write_text('{"text": "all about mills"}\n{"text": "all about boats"}\n')
        tagging = [tiny_model(), "--data", str(tmp_path / "news.jsonl"), "--out", str(tmp_path / "tags.jsonl"), *asked]
        done = semtag("tag", *tagging, "--votes", "3", "data.column=text")
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.keys == {f"Bearer {SECRET}"}
    rows = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_text().splitlines()]
    assert [row["tags"][0] for row in rows] == ["mills", "boats"]
    run = RunDir(tmp_path / "demo")
    assert semtag("verify", str(run.path)).returncode == 0
    assert {len(row["candidates"]) for row in read_rows(run.layout.round(1).ranked)} == {SAMPLES}
    files = [file for file in run.local_dir.rglob("*") if file.is_file()]
    assert files and not [str(file) for file in files if SECRET.encode() in file.read_bytes()]
    assert SECRET not in "".join(said)


@pytest.mark.cluster
def test_vllm_s_own_server_draws_what_the_engine_draws(tmp_path: Path) -> None:
    [port] = free_ports(1)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", tiny_model()]
    command += ["--host", "127.0.0.1", "--port", port, "--served-model-name", "some/model"]
    command += ["--dtype", "float32", "--max-model-len", "512"]
    config = load_config(
        ROOT / "configs" / "demo.yaml", [*TINY, f"sampling.samples={SAMPLES}", "sampling.constrained=true"]
    )
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | engine_environment(config), stdout=log, stderr=log)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while not is_up(url):
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(1)
        found = sampled_by(f"{url}/v1", texts(number=6), "sampling.constrained=true")
    finally:
        server.terminate()
        server.wait(timeout=60)
    expected = asyncio.run(engine_s(config, candidates(config, first_round=True)))
    assert said_by(found) == said_by(expected)
    assert {one.format for row in found for one in row.candidates} == {"valid"}


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


async def engine_s(config: Config, decoding: Decoding) -> list[SampledText]:
    """The same texts by the engine in this process."""
    sampler = Sampler(config, tiny_model(), [decoding], NoTally())
    try:
        return await sampler.sample(texts(number=6))
    finally:
        sampler.engine.shutdown()


def said_by(rows: list[SampledText]) -> list[tuple[int, str, str | None]]:
    return [(row.text_id, one.completion, one.finish_reason) for row in rows for one in row.candidates]
