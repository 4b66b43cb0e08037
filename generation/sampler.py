"""The vLLM actor: texts in, K candidates each out, several batches in flight."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import psutil
import pyarrow as pa

from cluster import cores
from cluster.orphans import end_with_this
from cluster.places import local_folder
from configs.schema import Config
from generation.parse import answer_pattern
from generation.prompts import build_messages, load_tokenizer, prompt_ids, takes_system_role
from generation.records import SAMPLED, candidate_row
from generation.texts import hash64
from generation.widen_heads import widen_checkpoint

Record = dict[str, Any]

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the largest ranks that vLLM makes room for


def seed_of(run_seed: int, text_id: int) -> int:
    """Seed of a text's request, in [0, 2^62); vLLM gives sample i the seed + i.

    It depends on the run's seed and the text alone, so a text draws the same candidates in any batch.
    """
    return hash64("sample", run_seed, text_id) & (2**62 - 1)


class Sampler:
    """Ray Data actor class around vLLM's asynchronous engine.

    `__call__` takes and returns a table of schema SAMPLED. A row's `decoding` is `sampled` (K candidates, as
    configured), `greedy` (one), `vote` (as many as `evaluation.votes`) or `few_shot` (as sampled, after the `examples`:
    texts with their answers); `constrained_` before it, or alone for sampled, keeps answers within the pattern of valid
    ones. A text that cannot be sampled comes back with its `reason`, never without its batch. `engine` goes over the
    configured arguments of vLLM's engine.
    """

    def __init__(
        self,
        config: Config,
        model: str,
        adapter: str | None = None,
        engine: dict[str, Any] | None = None,
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        on_gpu = config.sampling.gpus_per_actor > 0
        # An engine never spans nodes, so its parts have no need to listen beyond loopback, on a cluster either.
        os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
        if not on_gpu:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.sampling.cpu_cache_gb)
            cores.take_all()
        from vllm import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        model, adapter = local_folder(model), adapter and local_folder(adapter)
        self.config, self.examples = config, examples
        self.tokenizer = load_tokenizer(model, config.model)
        self.system_role = takes_system_role(self.tokenizer)
        served = (model, adapter) if on_gpu else widen_checkpoint(model, adapter)
        arguments = engine_arguments(config, *served) | {"tokenizer": model} | (engine or {})
        # vLLM sets batch sizes by who asks: a pile of prompts gets 256 sequences or more, a bare engine 128.
        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
        if not on_gpu:
            cores.step_aside()
        self._watch = end_with_this(psutil.Process().children(recursive=True))
        self.context = self.engine.model_config.max_model_len
        self.vocabulary = self.engine.model_config.get_vocab_size()
        self.adapter = _lora_request(served[1])

    async def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist(await self.sample(batch.to_pylist()), SAMPLED)

    async def sample(self, rows: list[Record]) -> list[Record]:
        """Rows of schema SAMPLED, in the order of the given ones."""
        return list(await asyncio.gather(*(self._sample(row) for row in rows)))

    async def _sample(self, row: Record) -> Record:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        examples = self.examples if row["decoding"] == "few_shot" else ()
        messages = build_messages(row["text"], self.config.prompt, self.system_role, examples)
        row |= {"prompt": messages, "candidates": []}
        try:
            ids = prompt_ids(self.tokenizer, messages)
        except Exception as error:  # templates and tokenizers raise errors of their own choosing
            return row | _refused(error)
        room = self.context - self.config.sampling.max_tokens
        if len(ids) > room:
            return row | {"reason": "too_long", "detail": f"prompt of {len(ids)} tokens, room for {room}"}
        # vLLM takes a token that its tokenizer has and the model has not, and dies of it.
        if max(ids, default=0) >= self.vocabulary:
            detail = f"token {max(ids)} is beyond the model's vocabulary of {self.vocabulary}"
            return row | {"reason": "refused_by_engine", "detail": detail}
        try:
            return row | {"candidates": await self._candidates(row, ids)}
        except (VLLMClientError, EngineGenerateError) as error:
            if self.engine.errored:
                raise EngineDeadError() from error
            return row | _refused(error)

    async def _candidates(self, row: Record, ids: list[int]) -> list[Record]:
        from vllm.v1.engine.exceptions import EngineGenerateError

        parameters = sampling_parameters(self.config, row["text_id"], row["decoding"])
        request = f"{row['text_id']}-{row['decoding']}"
        final = None
        async for output in self.engine.generate(
            {"prompt_token_ids": ids}, parameters, request, lora_request=self.adapter
        ):
            final = output
        if final is None:
            raise EngineGenerateError("the engine gave no output")
        return [self._candidate(output) for output in sorted(final.outputs, key=lambda output: output.index)]

    def _candidate(self, output: Any) -> Record:
        ids = output.token_ids
        return candidate_row(
            self.config.prompt,
            output.index,
            output.text,
            output.finish_reason,
            len(ids),
            list(ids),
            output.cumulative_logprob,
        )


def _refused(error: Exception) -> Record:
    """Why a text has no candidates; vLLM wraps what it did not expect in an error that says nothing."""
    cause = error.__cause__ or error
    return {"reason": "refused_by_engine", "detail": f"{type(cause).__name__}: {cause}"}


def sampling_parameters(config: Config, text_id: int, decoding: str) -> Any:
    """vLLM SamplingParams of one request; log-probabilities are vLLM's raw ones, at temperature 1."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = config.sampling
    common = {"max_tokens": sampling.max_tokens, "logprobs": 0, "output_kind": RequestOutputKind.FINAL_ONLY}
    if decoding.startswith("constrained"):
        pattern = answer_pattern(config.prompt.max_tags, config.prompt.max_tag_words)
        common["structured_outputs"] = StructuredOutputsParams(regex=pattern)
    if decoding.endswith("greedy") or sampling.temperature == 0:
        return SamplingParams(n=1, temperature=0.0, **common)
    return SamplingParams(
        n=config.evaluation.votes if decoding.endswith("vote") else sampling.samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=seed_of(config.run.seed, text_id),
        **common,
    )


def engine_arguments(config: Config, model: str, adapter: str | None) -> dict[str, Any]:
    """Arguments of vLLM's engine for a model and an optional LoRA adapter."""
    sampling = config.sampling
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": sampling.dtype,
        "max_model_len": sampling.max_model_len,
        "tensor_parallel_size": sampling.tensor_parallel,
        "seed": config.run.seed,
        "disable_log_stats": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
    }
    if sampling.tensor_parallel > 1:
        # All GPUs of the engine are the actor's own; Ray's executor would ask the cluster for as many again.
        arguments["distributed_executor_backend"] = "mp"
    if sampling.gpus_per_actor > 0:
        arguments["gpu_memory_utilization"] = sampling.gpu_memory
    else:
        # Chunked prefill on a CPU refuses a request's own seed; max_num_seqs bounds the batch instead.
        arguments |= {"enable_chunked_prefill": False, "enforce_eager": True}
    if adapter:
        rank = min(size for size in LORA_RANKS if size >= config.training.lora.rank)
        arguments |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}
    return arguments


def _lora_request(adapter: str | None) -> Any:
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("tuned", 1, adapter)
