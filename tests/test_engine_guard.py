"""How a text that kills engines is found, and no other one. With real engines: benchmarks.poison and chaos."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.generation import engine_guard, sampler
from semtag.generation.engine_guard import DEATHS_IN_A_ROW, GROUP, MOST_DEATHS, CrashCounts, GuardedSampler, Slot
from semtag.generation.records import SampledText, to_table
from tests.conftest import ROOT

CONFIG = load_config(ROOT / "configs" / "demo.yaml")
HERE, THERE = Slot("here", "node here, GPU 0"), Slot("there", "node there, GPU 3")


def sampled(number: int) -> SampledText:
    """A text of this id that nobody has answered yet."""
    return SampledText(number, str(number), None, "{}", "plain")


def ledger(*gone: str) -> CrashCounts:
    return CrashCounts(lambda: {"here", "there"} - {*gone})


def test_deaths_in_a_row_are_counted_until_a_text_is_done() -> None:
    crash_counts = ledger()
    crash_counts.enter(["a", "b"], HERE)
    assert [crash_counts.death(HERE) for _ in range(DEATHS_IN_A_ROW)][-1] == DEATHS_IN_A_ROW
    crash_counts.enter(["a"], THERE)
    assert crash_counts.met(["a", "b", "c"]) == [[HERE, THERE], [HERE], []]
    crash_counts.leave(["a"], HERE)
    assert crash_counts.met(["a", "b"]) == [[], [HERE]]
    assert crash_counts.death(HERE) == 1


def test_deaths_elsewhere_do_not_add_up() -> None:
    crash_counts = ledger()
    assert [crash_counts.death(slot) for slot in (HERE, THERE, HERE)] == [1, 1, 2]
    crash_counts.leave([], THERE)
    assert [crash_counts.death(HERE), crash_counts.death(THERE)] == [3, 1]


def test_a_node_that_goes_is_no_death() -> None:
    for gone, met, slots in ((set(), [HERE, THERE], 2), ({"there"}, [HERE], 1)):
        crash_counts = ledger(*gone)
        for slot in (HERE, THERE):
            crash_counts.enter(["a"], slot)
        assert crash_counts.met(["a"]) == [met]
        assert crash_counts.count_slots() == slots


def test_groups_shrink_with_every_death() -> None:
    rows = [sampled(number) for number in range(GROUP + 4)]
    deaths = [0, *[1] * (GROUP + 1), 2, MOST_DEATHS]
    together, groups, given_up = engine_guard.isolate(rows, deaths)
    assert together == rows[:1]
    assert groups == [rows[1 : GROUP + 1], [rows[GROUP + 1]], [rows[GROUP + 2]]]
    assert given_up == rows[-1:]


class Died(BaseException):
    """Stands for the end of an actor's process."""


class Remote:
    """An object as Ray shows an actor: `remote.method.remote(...)` may be waited for."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        async def answer(value: Any) -> Any:
            return value

        def call(*given: Any) -> Any:
            # The work is done at once, as where nobody waits for the answer.
            return asyncio.ensure_future(answer(getattr(self.inner, name)(*given)))

        return SimpleNamespace(remote=call)


class Unstable(GuardedSampler):
    """A sampler without vLLM, at a given slot, whose engine dies where `deadly` says so of the texts that are in it."""

    def __init__(
        self,
        crash_counts: CrashCounts,
        slot: Slot,
        deadly: Callable[[set[int]], bool],
        last: bool = True,
        config: Config | None = None,
    ) -> None:
        self.crash_counts, self.slot, self.last = Remote(crash_counts), slot, last
        self.config = config or CONFIG
        self.tally: Any = SimpleNamespace(add=lambda by, at_once=False: None)
        self.engine = SimpleNamespace(errored=False)
        self.deadly, self.inside, self._last_done = deadly, set[int](), 0.0
        self._set_up()

    async def _sample(self, text: SampledText) -> SampledText:
        self.inside.add(text.text_id)
        await asyncio.sleep(0)
        if self.engine.errored or self.deadly(self.inside):
            self.engine.errored = True
            await asyncio.Event().wait()
        self.inside.discard(text.text_id)
        return text


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[int, str | None], int]]:
    """Serves batches by actors that are started again, one life after the other; returns text -> reason, and lives."""
    monkeypatch.setattr(sampler, "POLL_SECONDS", 0.0001)
    monkeypatch.setattr(engine_guard, "POLL_SECONDS", 0.01)

    alive: list[Unstable] = []

    def end(status: int) -> None:
        alive.pop().crash_counts.inner = ledger()  # what its calls do while they are cancelled, a process would not do
        raise Died()

    monkeypatch.setattr(engine_guard.os, "_exit", end)

    def serve(start: Callable[[], Unstable], batches: list[list[int]]) -> tuple[dict[int, str | None], int]:
        done: dict[int, str | None] = {}

        async def call(actor: Unstable, batch: list[int]) -> None:
            for row in (await actor(to_table(map(sampled, batch)))).to_pylist():
                done[row["text_id"]] = row["reason"]
            left.remove(batch)

        async def live() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda *told: None)  # of what was cut short
            actor = start()
            alive[:] = [actor]
            calls = [asyncio.ensure_future(call(actor, batch)) for batch in left]
            try:
                await asyncio.gather(*calls)
            except Died:
                for one in calls:
                    one.cancel()
                await asyncio.gather(*calls, return_exceptions=True)

        left, lives = list(batches), 0
        while left:
            asyncio.run(live())
            lives += 1
        return done, lives

    return serve


def test_a_text_that_kills_engines_costs_no_other(serve: Any) -> None:
    crash_counts = ledger()
    batches = [list(range(start, start + 64)) for start in range(0, 512, 64)]
    done, lives = serve(lambda: Unstable(crash_counts, HERE, lambda inside: 70 in inside), batches)
    assert len(done) == 512
    assert [one for one, reason in done.items() if reason] == [70]
    assert lives == MOST_DEATHS + 1


def test_a_batch_of_nothing_but_poison_ends_in_rejects(serve: Any) -> None:
    crash_counts = ledger()
    batches = [list(range(start, start + 64)) for start in range(0, 192, 64)]
    done, _ = serve(lambda: Unstable(crash_counts, HERE, lambda inside: min(inside) < 64), batches)
    assert {one for one, reason in done.items() if reason == "kills_engine"} == set(range(64))
    assert len(done) == 192


def test_a_place_where_no_engine_lives_is_named_and_rejects_nobody(serve: Any) -> None:
    crash_counts = ledger()
    batches = [list(range(16))]
    assert serve(lambda: Unstable(crash_counts, HERE, lambda inside: False), batches)[1] == 1
    batches = [list(range(100, 140))]
    with pytest.raises(UserError, match=f"node here, GPU 0 died {DEATHS_IN_A_ROW} times"):
        serve(lambda: Unstable(crash_counts, HERE, lambda inside: True), batches)
    # Before a suspect enters a new engine, that does a text that was done well; so no innocent one was in two deaths.
    assert max(map(len, crash_counts.met([f"{one}-plain" for one in batches[0]]))) == 1


def test_a_bad_place_rejects_no_innocent_text(serve: Any) -> None:
    """What meets its deaths at one slot of two is left to the next pass; only what dies there as well is rejected."""
    crash_counts, batches = ledger(), [list(range(start, start + 32)) for start in range(0, 128, 32)]
    serve(lambda: Unstable(crash_counts, THERE, lambda inside: False, last=False), [[1000]])
    done, _ = serve(lambda: Unstable(crash_counts, HERE, lambda inside: bool({5, 6, 70} & inside), last=False), batches)
    assert set(range(128)) - done.keys() == {5, 6, 70}
    assert not any(done.values())
    again = ledger()
    done, _ = serve(lambda: Unstable(again, THERE, lambda inside: 6 in inside), [[5, 6, 70]])
    assert done == {5: None, 6: "kills_engine", 70: None}


def test_what_died_at_two_places_is_rejected_at_once(serve: Any) -> None:
    crash_counts = ledger()
    for slot in (HERE, THERE, THERE):
        crash_counts.enter(["5-plain"], slot)
    done, _ = serve(lambda: Unstable(crash_counts, HERE, lambda inside: True, last=False), [[5]])
    assert done == {5: "kills_engine"}


def test_an_engine_that_hangs_is_a_dead_one(serve: Any) -> None:
    crash_counts, hung = ledger(), list[int]()

    class Hanging(Unstable):
        async def _sample(self, text: SampledText) -> SampledText:
            if text.text_id == 7 and len(hung) < 1:
                hung.append(7)
                await asyncio.Event().wait()
            return await super()._sample(text)

    config = load_config(ROOT / "configs" / "demo.yaml", ["sampling.hang_minutes=0.001"])
    done, lives = serve(lambda: Hanging(crash_counts, HERE, lambda inside: False, config=config), [list(range(16))])
    assert (len(done), lives, hung) == (16, 2, [7])
    assert not any(done.values())


# One text kills each engine that it enters, the start after the first death fails, and there seems to be another GPU.
WITH_RAY = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace

import ray

import semtag.scoring.pipeline
from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import ray_session
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.generation.decoding import greedy
from semtag.generation.engine_guard import MOST_DEATHS, GuardedSampler, Slot
from semtag.generation.records import TEXT
from semtag.generation.sampler import Sampler
from semtag.scoring.finished import finish
from semtag.store.parquet import RowWriter, read_rows

class Stub(Sampler):
    def __init__(self, config, model, *others):
        self.lives = len(list(Path(model).iterdir()))
        (Path(model) / str(self.lives)).touch()
        if self.lives == 1:
            raise ValueError("the memory of the dead engine is not free yet")
        # In place of vLLM's, which each life would take many seconds to import.
        sys.modules["vllm.v1.engine.exceptions"] = SimpleNamespace(EngineDeadError=type("Dead", (Exception,), {}))
        self.config, self.tally = config, SimpleNamespace(add=lambda *counts, **how: None)
        self.engine, self._last_done = SimpleNamespace(errored=False), 0.0
        other = Slot(ray.get_runtime_context().get_node_id(), "another GPU")
        ray.get(self.crash_counts.enter.remote([], other))

    async def _sample(self, text):
        if text.text_id == 5:
            self.engine.errored = True
            await asyncio.Event().wait()
        return text

class Brittle(GuardedSampler, Stub): pass

folder = Path(sys.argv[1])
texts, rows, ids = (folder / name for name in ("texts.parquet", "rows", "ids"))
lives = folder / "lives"
lives.mkdir()
with RowWriter(texts, TEXT) as out:
    for id_ in range(8):
        out.write({"text_id": id_, "text": str(id_), "article": None, "meta": "{}"})
config, passes = load_config("configs/demo.yaml", ["sampling.batch_size=1", "sampling.in_flight=2"]), []

def sample(done, last):
    passes.append(last)
    with ray_session(config):
        semtag.scoring.pipeline.GuardedSampler = Brittle
        asked = [greedy(config, "greedy")]
        told = texts, rows, config, str(lives), asked, Progress("rank", "texts"), ids
        semtag.scoring.pipeline.sample_and_score(*told, done, score=False, last=last)

files = finish(texts, rows, ids, Progress("rank", "texts"), sample, lambda files: files)
reasons = {row["text_id"]: row["reason"] for file in files for row in read_rows(file, ["text_id", "reason"])}
assert passes == [False, True], passes
assert reasons == dict.fromkeys(range(8)) | {5: "kills_engine"}, reasons
# Of either pass the last life rejects the text, or leaves it out; the first pass has the start that failed.
assert len(list(lives.iterdir())) == (MOST_DEATHS + 1 + 1) + (MOST_DEATHS + 1), lives
"""


@pytest.mark.cluster
def test_a_start_that_fails_is_tried_again_and_what_dies_at_one_place_is_passed_over_once(tmp_path: Any) -> None:
    command, path = [sys.executable, "-c", WITH_RAY, str(tmp_path)], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
