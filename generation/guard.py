"""A sampler whose engine may die: a text that kills engines ends in the rejects and costs no other."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pyarrow as pa

from cluster.session import Tally
from configs.errors import UserError
from configs.schema import Config
from generation.decoding import Decoding
from generation.records import SAMPLED
from generation.sampler import Record, Sampler

GROUP = 8  # texts that share an engine after they were in one that died
MOST_DEATHS = 3  # in a batch, in a group, and alone: an innocent text hardly meets so many
DEATHS_IN_A_ROW = 12  # with no text finished in between; a group that is all poison takes 2 + GROUP
POLL_SECONDS = 0.5  # between looks at whether the engine lives


class Suspects:
    """Counts, for each text, the engines that it entered and never left: it was there when they died."""

    def __init__(self) -> None:
        self.entered: Counter[str] = Counter()
        self.deaths = 0

    def enter(self, keys: list[str]) -> None:
        """Count texts as being in an engine."""
        self.entered.update(keys)

    def leave(self, keys: list[str]) -> None:
        """Forget texts that the engine survived."""
        self.deaths = 0
        for key in keys:
            self.entered.pop(key, None)

    def met(self, keys: list[str]) -> list[int]:
        """How many engines died with each text in them."""
        return [self.entered[key] for key in keys]

    def death(self) -> int:
        """Count a death; returns how many there were with no text done in between."""
        self.deaths += 1
        return self.deaths


def shared_suspects() -> Any:
    """Suspects as an actor that outlives the engines, for all sampling actors of a pipeline."""
    import ray

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Suspects).remote()


class GuardedSampler(Sampler):
    """The Ray Data actor class of the pipeline: ends with its engine, is started anew by Ray, and tries again.

    Texts that were in an engine when it died come in small groups the next time, then alone, with nothing else in the
    engine; one that was there each time is rejected as `kills_engine`. Raises UserError when engines die one after the
    other.
    """

    def __init__(
        self,
        config: Config,
        model: str,
        decodings: Sequence[Decoding],
        tally: Tally,
        suspects: Any,
        engine: Record | None = None,
    ) -> None:
        super().__init__(config, model, decodings, tally, engine)
        self.suspects = suspects
        self._calls = config.sampling.in_flight
        self._room = asyncio.Semaphore(self._calls)
        self._turn = asyncio.Lock()
        self._dying = False

    async def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        deaths = await self.suspects.met.remote([_key(row) for row in rows])
        together, groups, given_up = groups_of(rows, deaths)
        why = {"reason": "kills_engine", "detail": f"{MOST_DEATHS} engines died with it"}
        done = [row | {"prompt": [], "candidates": []} | why for row in given_up]
        if together:
            async with self._room:
                done += await self._watched(together)
        for group in groups:
            async with self._alone():
                done += await self._watched(group)
        return pa.Table.from_pylist(done, SAMPLED)

    async def _watched(self, rows: list[Record]) -> list[Record]:
        from vllm.v1.engine.exceptions import EngineDeadError

        keys = [_key(row) for row in rows]
        await self.suspects.enter.remote(keys)  # waited for, because the engine may die the next moment
        work = asyncio.ensure_future(self.sample(rows))
        # A request on its way to an engine that dies at that moment waits for ever, so its end alone tells too little.
        while not work.done() and not self.engine.errored:
            await asyncio.wait([work], timeout=POLL_SECONDS)
        try:
            if not work.done():
                raise EngineDeadError()
            done = work.result()
        except EngineDeadError as error:
            await self._end(error)
        self.suspects.leave.remote(keys)
        return done

    async def _end(self, error: Exception) -> None:
        """End this process, for Ray to start another; only the first of the calls in flight counts the death."""
        if self._dying:
            await asyncio.Event().wait()
        self._dying = True
        if await self.suspects.death.remote() >= DEATHS_IN_A_ROW:
            raise UserError(
                f"The engine died {DEATHS_IN_A_ROW} times in a row and finished no text in between.",
                "The log of the stage has its last words; often the memory is short (sampling.gpu_memory, "
                "sampling.cpu_cache_gb) or the model is of a kind that vLLM does not serve here.",
            ) from error
        os._exit(1)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._turn:
            for _ in range(self._calls):
                await self._room.acquire()
            try:
                yield
            finally:
                for _ in range(self._calls):
                    self._room.release()


def _key(row: Record) -> str:
    return f"{row['text_id']}-{row['decoding']}"


def groups_of(rows: list[Record], deaths: list[int]) -> tuple[list[Record], list[list[Record]], list[Record]]:
    """Rows that go together, groups that go one after the other, and rows that are given up."""
    counted = list(zip(rows, deaths, strict=True))
    together = [row for row, met in counted if met == 0]
    once = [row for row, met in counted if met == 1]
    groups = [once[i : i + GROUP] for i in range(0, len(once), GROUP)]
    groups += [[row] for row, met in counted if 1 < met < MOST_DEATHS]
    return together, groups, [row for row, met in counted if met >= MOST_DEATHS]
