"""The vLLM actor, which samples K candidates for each text, with several batches in flight."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any

import psutil
import pyarrow as pa

from semtag.cluster.progress import Adds, Counts
from semtag.configs.schema import Config
from semtag.generation.decoding import Decoding
from semtag.generation.prompts import Chat, load_tokenizer
from semtag.generation.reasons import RejectReason
from semtag.generation.records import Candidate, SampledText, from_table, read_candidate, sampled_counts, to_table
from semtag.generation.vote import majority_vote
from semtag.store.hashing import hash64
from semtag.store.locations import local_folder, socket_folder
from semtag.store.process_cleanup import kill_when_parent_ends

POLL_SECONDS = 0.5  # between checks whether the engine is alive


def seed_of(run_seed: int, text_id: int) -> int:
    """Return the seed of a text's request, in [0, 2^62). vLLM gives sample i the seed + i.

    The seed depends only on the run's seed and the text. So a text draws the same candidates in any batch, if vLLM's
    sums do not depend on the batch: on CPUs in float32, and on GPUs with VLLM_BATCH_INVARIANT=1 on every node.
    """
    return hash64("sample", run_seed, text_id) & (2**62 - 1)


class Sampler:
    """Ray Data actor class around vLLM's asynchronous engine.

    `__call__` takes and returns a table of schema SAMPLED. A text's `decoding` names one of the `decodings`. A text
    that cannot be sampled comes back with its `reason`, and the rest of its batch is sampled. `engine` overrides the
    configured arguments of vLLM's engine.
    """

    def __init__(
        self,
        config: Config,
        model: str,
        decodings: Sequence[Decoding],
        tally: Adds,
        engine: dict[str, Any] | None = None,
    ) -> None:
        os.environ.update(engine_environment(config))
        from vllm import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        model, self.tally, self._last_done = local_folder(model), tally, 0.0
        self.config, self.decodings = config, {decoding.name: decoding for decoding in decodings}
        self.chat = Chat(load_tokenizer(model, config.model), config.prompt)
        arguments = engine_arguments(config, model) | (engine or {})
        # The usage context sets vLLM's batch size: LLM_CLASS gets 256 sequences or more, a bare engine 128.
        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
        self._watch = kill_when_parent_ends(psutil.Process().children(recursive=True))
        self.context = self.engine.model_config.max_model_len
        self.longest_token = max(map(len, self.chat.tokenizer.get_vocab()))

    async def __call__(self, batch: pa.Table) -> pa.Table:
        return to_table(await self.sample(from_table(batch)))

    async def sample(self, texts: list[SampledText]) -> list[SampledText]:
        """Return the texts with their candidates, in the same order. Raises EngineDeadError as `_watched` does."""
        done = await self._watched(asyncio.gather(*(self._counted(text) for text in texts)))
        self.tally.add(Counts(), at_once=True)
        return list(done)

    async def _watched(self, work: Awaitable[list[SampledText]]) -> list[SampledText]:
        """Wait for the work and return its result. Raises EngineDeadError when the engine is dead or hangs."""
        from vllm.v1.engine.exceptions import EngineDeadError

        work, began = asyncio.ensure_future(work), time.monotonic()
        # A request hangs if the engine dies while the request is on its way, or died before the first request. So
        # Semtag also checks the engine.
        while not work.done() and not self.engine.errored:
            await asyncio.wait([work], timeout=POLL_SECONDS)
            idle = time.monotonic() - max(began, self._last_done)
            if not work.done() and idle > self.config.sampling.hang_minutes * 60:
                logging.getLogger(__name__).error(
                    "The engine hangs: no text finished in %.0f s (see sampling.hang_minutes).", idle
                )
                break
        if not work.done():
            raise EngineDeadError()
        return await work

    async def _counted(self, text: SampledText) -> SampledText:
        # Count texts one by one, so that progress moves while the first batches are in flight.
        done = await self._sample(text)
        self._last_done = time.monotonic()
        self.tally.add(sampled_counts([done]))
        return done

    async def _sample(self, text: SampledText) -> SampledText:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        decoding = self.decodings[text.decoding]
        # Reject a huge text before it is tokenised, because its tokenisation would delay all other texts.
        most = self.context * self.longest_token
        if len(text.text) > most:
            return text.rejected(RejectReason.TOO_LONG, f"{len(text.text)} characters, room for {most} at most")
        # Render the prompt, which must leave room for the answer.
        try:
            text, ids = with_prompt(self.chat, text, decoding)
        except Exception as error:  # templates and tokenizers raise errors of any kind
            return _refused(text, error)
        room = self.context - decoding.max_tokens
        if len(ids) > room:
            return text.rejected(RejectReason.TOO_LONG, f"prompt of {len(ids)} tokens, room for {room}")
        # Sample, unless the engine refuses the prompt.
        try:
            candidates = await self._candidates(text, ids, decoding)
        except (VLLMClientError, EngineGenerateError) as error:
            if self.engine.errored:
                raise EngineDeadError() from error
            return _refused(text, error)
        return replace(text, candidates=[majority_vote(candidates)] if decoding.vote else candidates)

    async def _candidates(self, text: SampledText, ids: list[int], decoding: Decoding) -> list[Candidate]:
        from vllm.v1.engine.exceptions import EngineGenerateError

        parameters = sampling_parameters(decoding, seed_of(self.config.run.seed, text.text_id))
        final = None
        async for output in self.engine.generate(
            {"prompt_token_ids": ids}, parameters, f"{text.text_id}-{decoding.name}"
        ):
            final = output
        if final is None:
            raise EngineGenerateError("the engine gave no output")
        return [self._candidate(output) for output in sorted(final.outputs, key=lambda output: output.index)]

    def _candidate(self, output: Any) -> Candidate:
        return read_candidate(
            self.config.prompt,
            output.index,
            output.text,
            output.finish_reason,
            num_tokens=len(output.token_ids),
            token_ids=list(output.token_ids),
            logprob=output.cumulative_logprob,
        )


def with_prompt(chat: Chat, text: SampledText, decoding: Decoding) -> tuple[SampledText, list[int]]:
    """Return the text with its plain prompt, and the tokens of the prompt for sampling, which may have examples."""
    messages = chat.messages(text.text)
    ids = sampled_ids = chat.ids(messages)
    if decoding.examples:
        sampled_ids = chat.ids(chat.messages(text.text, decoding.examples))
    return replace(text, prompt=messages, prompt_ids=ids, sampled_prompt_ids=sampled_ids), sampled_ids


def _refused(text: SampledText, error: Exception) -> SampledText:
    """Reject a text with the cause of an error, because vLLM wraps unexpected errors in an error that says nothing."""
    cause = error.__cause__ or error
    return text.rejected(RejectReason.REFUSED_BY_ENGINE, f"{type(cause).__name__}: {cause}")


def sampling_parameters(decoding: Decoding, seed: int) -> Any:
    """Build vLLM's SamplingParams of a request. Log-probabilities are vLLM's raw ones, at temperature 1."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        n=decoding.samples,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k,
        seed=seed if decoding.temperature else None,
        max_tokens=decoding.max_tokens,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(regex=decoding.pattern) if decoding.pattern else None,
        allowed_token_ids=list(decoding.allowed_tokens) if decoding.allowed_tokens else None,
    )


def engine_environment(config: Config) -> dict[str, str]:
    """Return the environment variables that vLLM reads when its engine starts."""
    # An engine never spans nodes, so its parts listen on loopback only, even on a cluster.
    variables = {"VLLM_HOST_IP": os.environ.get("VLLM_HOST_IP", "127.0.0.1")}
    variables["VLLM_RPC_BASE_PATH"] = os.environ.get("VLLM_RPC_BASE_PATH", socket_folder())
    if config.sampling.gpus_per_actor == 0:
        # The model runs in this process, on all cores. A process that waits for a separate engine process spins, and
        # vLLM keeps a core free for the waiting process. With two cores, the free core is half of the speed.
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.sampling.cpu_cache_gb),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        }
    return variables


def engine_arguments(config: Config, model: str) -> dict[str, Any]:
    """Build the arguments of vLLM's engine for a model."""
    sampling = config.sampling
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": sampling.dtype,
        "max_model_len": sampling.max_model_len,
        "tensor_parallel_size": sampling.tensor_parallel,
        "seed": config.run.seed,
        "enable_prefix_caching": True,  # all prompts share the system message and the examples
        "disable_log_stats": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
    }
    if sampling.tensor_parallel > 1:
        # The actor holds all GPUs of the engine. vLLM's Ray executor would request as many GPUs again.
        arguments["distributed_executor_backend"] = "mp"
    if sampling.gpus_per_actor > 0:
        arguments["gpu_memory_utilization"] = sampling.gpu_memory
    else:
        # Chunked prefill on a CPU refuses a request's own seed, so max_num_seqs bounds the batch.
        # Prefix caching keeps full blocks only, and each sample computes the rest of its prompt again. So a block has
        # the fewest tokens that a CPU allows, 32 instead of 128.
        arguments |= {"enable_chunked_prefill": False, "enforce_eager": True, "block_size": 32}
    return arguments
