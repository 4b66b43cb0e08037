"""The real engine against transformers: log-probabilities, seeds, adapters, odd templates."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from configs.load import load_config
from configs.schema import Config, Model, Prompt
from generation.prompts import PLAIN_TEMPLATE, build_messages, load_tokenizer, prompt_ids, takes_system_role
from generation.records import TEXT
from generation.sampler import Sampler, engine_arguments, seed_of
from tests.conftest import ROOT, TINY

TEXTS = ["The governor holds the speed of a steam engine.", "Bees make honey in a hive.", "Glass is sand and ash."]


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(ROOT / "configs" / "demo.yaml", TINY)


@pytest.fixture(scope="module")
def base(finished_run: Path) -> str:
    return str(finished_run / "base")


def table(texts: list[str], decoding: str = "sampled") -> pa.Table:
    rows = [
        {"text_id": i, "text": text, "article": None, "meta": "{}", "decoding": decoding}
        for i, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, pa.schema([*TEXT, ("decoding", pa.string())]))


def test_an_engine_over_several_gpus_keeps_to_its_actor() -> None:
    several = ["sampling.gpus_per_actor=1", "sampling.tensor_parallel=2"]
    arguments = engine_arguments(load_config(ROOT / "configs" / "demo.yaml", several), "model", None)
    assert (arguments["tensor_parallel_size"], arguments["distributed_executor_backend"]) == (2, "mp")


class Recorder(Sampler):
    """Keeps what the engine gave; a candidate's text may encode to other tokens than were drawn."""

    def __init__(self, config: Config, model: str, adapter: str | None = None) -> None:
        super().__init__(config, model, adapter)
        self.drawn: list[tuple[dict[str, Any], list[int]]] = []

    def _candidate(self, output: Any) -> dict[str, Any]:
        candidate = super()._candidate(output)
        self.drawn.append((candidate, list(output.token_ids)))
        return candidate


class Engine:
    """A sampler with an event loop of its own, as an actor has one."""

    def __init__(self, config: Config, model: str, adapter: str | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.sampler = self.loop.run_until_complete(self._start(config, model, adapter))

    async def _start(self, config: Config, model: str, adapter: str | None) -> Recorder:
        return Recorder(config, model, adapter)

    def __call__(self, texts: list[str], decoding: str = "sampled") -> list[dict[str, Any]]:
        result: pa.Table = self.loop.run_until_complete(self.sampler(table(texts, decoding)))
        rows: list[dict[str, Any]] = result.to_pylist()
        return rows

    def close(self) -> None:
        # Within the loop: from without, vLLM leaves its sockets to a callback that a closed loop never runs, and the
        # collection of its zmq context then waits for them for ever, in whatever test it happens to fall.
        self.loop.run_until_complete(self._stop())
        self.loop.close()

    async def _stop(self) -> None:
        self.sampler.engine.shutdown()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="module")
def tuned(config: Config, base: str, finished_run: Path) -> Iterator[Engine]:
    """Serves the adapter."""
    engine = Engine(config, base, str(finished_run / "model"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain(config: Config, base: str) -> Iterator[Engine]:
    """Serves the base model."""
    engine = Engine(config, base)
    yield engine
    engine.close()


def compare(engine: Engine, model: Any) -> None:
    """Hold the candidates' log-probabilities against those of transformers, the end token included."""
    for text in TEXTS:
        engine.sampler.drawn.clear()
        [row] = engine([text])
        prompt = prompt_ids(engine.sampler.tokenizer, row["prompt"])
        assert len(engine.sampler.drawn) == 3
        for candidate, tokens in engine.sampler.drawn:
            ids = torch.tensor([[*prompt, *tokens]])
            with torch.no_grad():
                logits = model(ids).logits[0, len(prompt) - 1 : -1]
            expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(tokens)[:, None]).sum().item()
            assert candidate["num_tokens"] == len(tokens)
            assert candidate["logprob"] == pytest.approx(expected, abs=1e-3 * len(tokens))


def test_base_and_adapter_give_transformers_log_probabilities(
    plain: Engine, tuned: Engine, base: str, finished_run: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    compare(plain, model)
    compare(tuned, PeftModel.from_pretrained(model, str(finished_run / "model")).eval())


def test_a_text_draws_the_same_candidates_alone_and_in_a_batch(plain: Engine) -> None:
    together, alone = plain(TEXTS), plain(TEXTS[:1])
    completions = [[c["completion"] for c in row["candidates"]] for row in together]
    assert [c["completion"] for c in alone[0]["candidates"]] == completions[0]
    assert len(set(completions[0])) > 1


def test_greedy_gives_one_candidate(plain: Engine) -> None:
    first, second = plain(TEXTS[:1], "greedy"), plain(TEXTS[:1], "greedy")
    assert len(first[0]["candidates"]) == 1
    assert first == second


def test_answers_within_their_form_are_well_formed_or_repeat_themselves(plain: Engine) -> None:
    for decoding in ("constrained", "constrained_greedy", "constrained_vote"):
        rows = plain([f"{text} {place}" for place in range(4) for text in TEXTS], decoding)
        found = [candidate for row in rows for candidate in row["candidates"]]
        count = {"constrained": 3, "constrained_greedy": 1, "constrained_vote": 5}[decoding]
        assert len(found) == 12 * count
        whole = [candidate for candidate in found if candidate["finish_reason"] == "stop"]
        assert whole and {candidate["reason"] for candidate in whole} <= {None, "repeated", "empty"}


def test_a_text_is_asked_about_after_the_examples(plain: Engine) -> None:
    plain.sampler.examples = [("A mill grinds grain.", "[mill][grain]")]
    asked = {decoding: plain(TEXTS[:1], decoding)[0] for decoding in ("few_shot", "sampled", "vote")}
    plain.sampler.examples = ()
    assert [message["role"] for message in asked["few_shot"]["prompt"]] == ["system", "user", "assistant", "user"]
    assert len(asked["sampled"]["prompt"]) == 2
    counts = {decoding: len(row["candidates"]) for decoding, row in asked.items()}
    assert counts == {"few_shot": 3, "sampled": 3, "vote": 5}


def test_a_text_over_the_context_costs_no_other(plain: Engine) -> None:
    rows = plain([TEXTS[0], "word " * 2000, TEXTS[1]])
    assert [row["reason"] for row in rows] == [None, "too_long", None]
    assert "room for 488" in rows[1]["detail"]
    assert [len(row["candidates"]) for row in rows] == [3, 0, 3]


def test_the_engine_holds_as_many_sequences_as_one_for_a_pile_of_prompts(plain: Engine) -> None:
    from vllm import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    tokens, sequences = EngineArgs.get_batch_defaults(1)
    scheduler = plain.sampler.engine.vllm_config.scheduler_config
    assert scheduler.max_num_seqs == sequences[UsageContext.LLM_CLASS] > 128
    assert scheduler.max_num_batched_tokens == tokens[UsageContext.LLM_CLASS] > 2048


def test_seeds_depend_on_run_and_text_alone() -> None:
    seeds = {seed_of(run, text) for run in range(5) for text in range(200)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**62 for seed in seeds)


def test_a_template_without_a_system_role_gets_it_in_the_users_message(base: str) -> None:
    tokenizer = load_tokenizer(base, Model(base=base))
    assert takes_system_role(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    assert not takes_system_role(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    assert not takes_system_role(tokenizer)
    prompt = Prompt(system="S", user="U {text}")
    assert build_messages("{text} t", prompt, True)[1]["content"] == "U {text} t"
    assert build_messages("t", prompt, False) == [{"role": "user", "content": "S\n\nU t"}]
    assert build_messages("t", Prompt(system="", user="{text}"), True) == [{"role": "user", "content": "t"}]


def test_a_checkpoint_without_a_template_gets_the_plain_one(base: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base, Model(base=base))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    plain = load_tokenizer(tmp_path, Model(base="x"))
    assert plain.chat_template == PLAIN_TEMPLATE
    rendered = plain.apply_chat_template(
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], tokenize=False
    )
    assert rendered == "q\n\na</s>"
    own = tmp_path / "own.jinja"
    own.write_text("OWN")
    assert load_tokenizer(tmp_path, Model(base="x", chat_template=str(own))).chat_template == "OWN"
