"""The contenders of benchmarks.generation, each a process of its own: `python -m benchmarks.contenders NAME FOLDER`.

The folder holds `config.yaml`, `job.json` and `texts.parquet`. A contender leaves `engine.json`, the settings that its
engine came to, and `finished.txt`, a line for each request that its engine finished: when, candidates, tokens.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from semtag.cluster.ray_session import Tally, ray_session
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.generation.decoding import candidates
from semtag.generation.engine_guard import GuardedSampler
from semtag.generation.prompts import Chat, load_tokenizer
from semtag.generation.records import SampledText
from semtag.generation.sampler import engine_arguments, sampling_parameters, seed_of
from semtag.scoring.pipeline import sampled_rows
from semtag.store.locations import local_folder
from semtag.store.parquet import read_rows

Record = dict[str, Any]


class Journal:
    """Writes down what the engine is and when it finishes what, in the process that feeds it."""

    def __init__(self, folder: Path, engine_config: Any) -> None:
        scheduler, cache, model = engine_config.scheduler_config, engine_config.cache_config, engine_config.model_config
        settings = {
            "max_num_seqs": scheduler.max_num_seqs,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "chunked_prefill": scheduler.enable_chunked_prefill,
            "prefix_caching": cache.enable_prefix_caching,
            "block_size": cache.block_size,
            "max_model_len": model.max_model_len,
            "dtype": str(model.dtype),
            "enforce_eager": model.enforce_eager,
        }
        (folder / "engine.json").write_text(json.dumps(settings), encoding="utf-8")
        self.file = (folder / "finished.txt").open("a", buffering=1, encoding="utf-8")

    def finished(self, candidates: int, tokens: int) -> None:
        """Note that a request is finished. The clock is the same in all processes."""
        self.file.write(f"{time.monotonic()} {candidates} {tokens}\n")


def ours(folder: Path, config: Config, engine: Record) -> None:
    """The pipeline's own dataset of sampled rows, written as Parquet."""

    class Timed(GuardedSampler):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments, engine=engine)
            self.journal = Journal(folder, self.engine.vllm_config)

        async def _sample(self, text: SampledText) -> SampledText:
            done = await super()._sample(text)
            self.journal.finished(len(done.candidates), sum(c.num_tokens or 0 for c in done.candidates))
            return done

    decodings = [candidates(config, first_round=True)]
    with ray_session(config):
        rows = sampled_rows(folder / "texts.parquet", config, config.model.base, decodings, Tally(), Timed)
        rows.write_parquet(str(folder / "out"))


def raw(folder: Path, config: Config, engine: Record) -> None:
    """One call of vllm.LLM.generate over all prompts, which are token ids already."""
    from vllm import LLM

    model, decoding = local_folder(config.model.base), candidates(config, first_round=True)
    chat = Chat(load_tokenizer(model, config.model), config.prompt)
    rows = list(read_rows(folder / "texts.parquet"))
    messages = [chat.messages(row["text"], decoding.examples) for row in rows]
    prompts = [{"prompt_token_ids": chat.ids(turns)} for turns in messages]
    parameters = [sampling_parameters(decoding, seed_of(config.run.seed, row["text_id"])) for row in rows]
    llm: Any = LLM(**engine_arguments(config, model) | engine)
    journal, step = Journal(folder, llm.llm_engine.vllm_config), llm.llm_engine.step

    def timed_step() -> Any:
        outputs = step()
        for output in outputs:
            if output.finished:
                journal.finished(len(output.outputs), sum(len(sample.token_ids) for sample in output.outputs))
        return outputs

    llm.llm_engine.step = timed_step
    llm.generate(prompts, parameters, use_tqdm=False)


def ray_data_llm(folder: Path, config: Config, engine: Record) -> None:
    """ray.data.llm's processor over K copies of each prompt, since it keeps the first sample of a request alone."""
    sampling = config.sampling
    with ray_session(config, actors=False, cpus=config.cluster.cpus or 0):
        import ray.data

        copies = ray.data.read_parquet(str(folder / "texts.parquet")).flat_map(
            lambda row: [row | {"copy": copy} for copy in range(sampling.samples)]
        )
        processor = _processor(folder, config, engine)
        rows = processor(copies.repartition(target_num_rows_per_block=sampling.batch_size))
        rows.write_parquet(str(folder / "out"))


def _processor(folder: Path, config: Config, engine: Record) -> Any:
    """The processor as its documentation has it, with an engine stage that keeps a journal; Ray must be running."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    sampling, model = config.sampling, local_folder(config.model.base)
    arguments = engine_arguments(config, model) | _batch_sizes(config) | engine
    examples = candidates(config, first_round=True).examples
    chat = Chat(load_tokenizer(model, config.model), config.prompt)
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=model,
            engine_kwargs={name: value for name, value in arguments.items() if name != "model"},
            batch_size=sampling.batch_size,
            max_concurrent_batches=sampling.in_flight,
            concurrency=1,
            placement_group_config={"bundles": [{"CPU": 1, "GPU": sampling.gpus_per_actor}]},
            detokenize_stage=False,  # vLLM gives the text already
            log_engine_metrics=False,
        ),
        preprocess=lambda row: {
            "messages": chat.messages(row["text"], examples),
            "sampling_params": _as_dict(config, row["text_id"], row["copy"]),
        },
        postprocess=lambda row: {
            "text_id": row["text_id"],
            "completion": row["generated_text"],
            "num_tokens": row["num_generated_tokens"],
        },
    )
    processor.stages["vLLMEngineStage"] = _timed(processor.get_stage_by_name("vLLMEngineStage"), folder)
    return processor


def _timed(stage: Any, folder: Path) -> Any:
    """The engine stage with a journal; a copy, for the stage itself would resolve its resources anew, with a GPU."""
    from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

    class Timed(vLLMEngineStageUDF):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.journal = Journal(folder, self.llm._vllm_config)

        async def _generate_with_error_handling(self, row: Record, batch_uuid: Any) -> Record:
            output: Record = await super()._generate_with_error_handling(row, batch_uuid)
            self.journal.finished(1, output["num_generated_tokens"])
            return output

    return stage.model_copy(update={"fn": Timed})


def _as_dict(config: Config, text_id: int, copy: int) -> Record:
    """The sampling parameters of the copy, which draws what sample number `copy` of the text draws elsewhere."""
    sampling = config.sampling
    return {
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": seed_of(config.run.seed, text_id) + copy,
        "max_tokens": sampling.max_tokens,
    }


def _batch_sizes(config: Config) -> Record:
    """What vllm.LLM and our sampler get from vLLM by themselves; ray.data.llm would get those of a small server."""
    from vllm import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    tokens, sequences = EngineArgs.get_batch_defaults(config.sampling.tensor_parallel)
    return {
        "max_num_batched_tokens": tokens[UsageContext.LLM_CLASS],
        "max_num_seqs": sequences[UsageContext.LLM_CLASS],
    }


CONTENDERS = {"ours": ours, "raw": raw, "ray_data_llm": ray_data_llm}

if __name__ == "__main__":
    name, job_folder = sys.argv[1], Path(sys.argv[2])
    job = json.loads((job_folder / "job.json").read_text(encoding="utf-8"))
    CONTENDERS[name](job_folder, load_config(job_folder / "config.yaml"), job["engine"])
