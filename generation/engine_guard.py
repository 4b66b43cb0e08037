"""A sampler whose engine may die: a text that kills engines is rejected, and no other text is lost.

Engines also die of other causes, such as a bad GPU or a lost node. So a text is rejected only after several engines
died with it: in a batch, in a small group, and alone. In a group and alone, a new engine first samples a harmless text.
"""

import asyncio
import contextlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Container, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from semtag.cluster.progress import Adds
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.decoding import Decoding
from semtag.generation.reasons import RejectReason
from semtag.generation.records import SampledText, from_table, to_table
from semtag.generation.sampler import POLL_SECONDS, Sampler

GROUP = 8  # texts that share an engine after each of them was in an engine that died
MOST_DEATHS = 3  # engines that died with a text: in a batch, in a group, and alone
DEATHS_IN_A_ROW = 12  # engines that died at a slot, with no text finished there in between


class Slot(NamedTuple):
    """The place of an engine: the id of its node, and a name such as `node 10.0.0.1, GPU 0`."""

    node: str
    name: str


class CrashCounts:
    """A record of the engines that each text entered and did not leave, because the engines died."""

    def __init__(self, living: Callable[[], Container[str]]) -> None:
        self.living = living  # gives the ids of the nodes that are alive
        self.entered: defaultdict[str, list[Slot]] = defaultdict(list)
        self.slots: set[Slot] = set()
        self.deaths: Counter[Slot] = Counter()
        self.good: SampledText | None = None

    def enter(self, keys: list[str], slot: Slot) -> None:
        """Record that texts are in the engine at a slot."""
        self.slots.add(slot)
        for key in keys:
            self.entered[key].append(slot)

    def leave(self, keys: list[str], slot: Slot, good: SampledText | None = None) -> None:
        """Forget texts that the engine at a slot survived, and the slot's deaths. `good` is a text that was sampled."""
        self.deaths[slot] = 0
        self.good = good or self.good
        for key in keys:
            self.entered.pop(key, None)

    def met(self, keys: list[str]) -> list[list[Slot]]:
        """Return, for each text, the slots whose engines died with it. Engines on nodes that are gone do not count."""
        if not any(key in self.entered for key in keys):
            return [[] for _ in keys]
        living = self.living()

        def deaths_of(key: str) -> list[Slot]:
            return [slot for slot in self.entered.get(key, ()) if slot.node in living]

        return [*map(deaths_of, keys)]

    def count_slots(self) -> int:
        """Count the slots, on nodes that are alive, whose engines had texts."""
        living = self.living()
        return sum(slot.node in living for slot in self.slots)

    def harmless_text(self) -> SampledText | None:
        """Return a text that an engine sampled, if any."""
        return self.good

    def death(self, slot: Slot) -> int:
        """Count a death; return the number of deaths at this slot with no text finished there in between."""
        self.deaths[slot] += 1
        return self.deaths[slot]


def shared_crash_counts() -> Any:
    """Start `CrashCounts` as an actor that outlives the engines, for all sampling actors of a pipeline."""
    import ray

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(CrashCounts).remote(_living_nodes)


def _living_nodes() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _slot_here() -> Slot:
    """Return the slot of the Ray actor that runs this code."""
    import ray

    gpus = ", ".join(map(str, ray.get_gpu_ids()))
    name = f"node {ray.util.get_node_ip_address()}" + f", GPU {gpus}" * bool(gpus)
    return Slot(ray.get_runtime_context().get_node_id(), name)


class GuardedSampler(Sampler):
    """Ray Data actor class of the pipeline. The actor ends with its engine, and Ray restarts the actor.

    Texts of an engine that died are sampled in small groups the next time, then alone. A text that MOST_DEATHS engines
    died with is rejected as `kills_engine`. Before the `last` pass over the texts, a text whose engines all died at one
    of several slots gets no row, so that the next pass samples the text again. Raises UserError after DEATHS_IN_A_ROW
    deaths at one slot with no text finished in between.
    """

    def __init__(
        self,
        config: Config,
        model: str,
        decodings: Sequence[Decoding],
        tally: Adds,
        crash_counts: Any,
        engine: dict[str, Any] | None = None,
        last: bool = True,
    ) -> None:
        self.crash_counts, self.slot, self.last = crash_counts, _slot_here(), last
        try:
            super().__init__(config, model, decodings, tally, engine)
        except Exception as error:
            self._end_of_start(error)
        self._set_up()

    def _set_up(self) -> None:
        self._calls = self.config.sampling.in_flight
        self._room = asyncio.Semaphore(self._calls)
        self._turn = asyncio.Lock()
        self._dying = self._proven = False

    def _end_of_start(self, error: Exception) -> None:
        """Raise the error of the start, or end the process where engines have run before, so that Ray tries again.

        Ray does not restart an actor whose start raised an error, and fails the actor's batches.
        """
        import ray

        if not ray.get(self.crash_counts.count_slots.remote()):
            raise error
        if ray.get(self.crash_counts.death.remote(self.slot)) >= DEATHS_IN_A_ROW:
            raise self._given_up() from error
        logging.getLogger(__name__).error("The engine did not start. Ray restarts the actor.", exc_info=error)
        os._exit(1)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        texts = from_table(batch)
        met = await self.crash_counts.met.remote([*map(_key, texts)])
        deaths = list(map(len, met))
        together, groups, found = isolate(texts, deaths)
        if min(deaths, default=0) > 1:
            await asyncio.sleep(POLL_SECONDS)  # let less suspicious texts go first, because one may prove harmless
        done = await self._given_up_on(found, [slots for slots in met if len(slots) >= MOST_DEATHS])
        if together:
            async with self._room:
                done += await self._guarded(together)
        for group in groups:
            async with self._alone():
                await self._prove()
                done += await self._guarded(group)
        return to_table(done)

    async def _given_up_on(self, texts: list[SampledText], met: list[list[Slot]]) -> list[SampledText]:
        """Return the texts as rejects, without the texts to try at another slot."""
        one_is_all = self.last or not texts or await self.crash_counts.count_slots.remote() == 1
        return [
            text.rejected(RejectReason.KILLS_ENGINE, _died_with(slots))
            for text, slots in zip(texts, met, strict=True)
            if one_is_all or len(set(slots)) > 1
        ]

    async def _prove(self) -> None:
        """Let a new engine sample a harmless text, so that no suspect is blamed for an engine that dies at once."""
        if not self._proven and (good := await self.crash_counts.harmless_text.remote()):
            await self._guarded([good], count=False)

    async def _guarded(self, texts: list[SampledText], count: bool = True) -> list[SampledText]:
        from vllm.v1.engine.exceptions import EngineDeadError

        keys = [*map(_key, texts)]
        await self.crash_counts.enter.remote(keys, self.slot)  # awaited, because the engine may die the next moment
        try:
            done = await (self.sample(texts) if count else self._watched(asyncio.gather(*map(self._sample, texts))))
        except EngineDeadError as error:
            await self._end(error)
        well = [] if self._proven else [text for text in done if text.reason is None]
        good = well[0].unanswered() if well else None
        self._proven = self._proven or bool(well)
        self.crash_counts.leave.remote(keys, self.slot, good)
        return done

    async def _end(self, error: Exception) -> None:
        """End this process, so that Ray starts another. Only the first of the calls in flight counts the death."""
        if self._dying:
            await asyncio.Event().wait()
        self._dying = True
        if await self.crash_counts.death.remote(self.slot) >= DEATHS_IN_A_ROW:
            raise self._given_up() from error
        os._exit(1)

    def _given_up(self) -> UserError:
        return UserError(
            f"The engine on {self.slot.name} died {DEATHS_IN_A_ROW} times in a row and finished no text in between.",
            "See the engine's last lines in the log of the stage. Common causes: too little memory (set "
            "sampling.gpu_memory or sampling.cpu_cache_gb), a model that vLLM does not serve here, a broken GPU.",
        )

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        # Take all places of the semaphore, so that no other call is in the engine.
        async with self._turn:
            for _ in range(self._calls):
                await self._room.acquire()
            try:
                yield
            finally:
                for _ in range(self._calls):
                    self._room.release()


def _key(text: SampledText) -> str:
    return f"{text.text_id}-{text.decoding}"


def _died_with(slots: list[Slot]) -> str:
    return f"{len(slots)} engines died with this text, on {'; '.join(sorted({slot.name for slot in slots}))}"


def isolate(
    texts: list[SampledText], deaths: list[int]
) -> tuple[list[SampledText], list[list[SampledText]], list[SampledText]]:
    """Sort texts by deaths: texts to sample together, groups to sample one after the other, and texts to reject.

    Example: texts a to e with deaths `[0, 1, 1, 2, 3]` become `[a]`, `[[b, c], [d]]` and `[e]`.
    """
    counted = list(zip(texts, deaths, strict=True))
    together = [text for text, met in counted if met == 0]
    once = [text for text, met in counted if met == 1]
    groups = [once[i : i + GROUP] for i in range(0, len(once), GROUP)]
    groups += [[text] for text, met in counted if 1 < met < MOST_DEATHS]
    return together, groups, [text for text, met in counted if met >= MOST_DEATHS]
