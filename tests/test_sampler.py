"""The real engine against transformers: log-probabilities, seeds, examples, the grammar, odd templates."""

import asyncio
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from semtag.cluster.progress import Counts, Progress
from semtag.configs.load import load_config
from semtag.configs.schema import Config, Model, Prompt
from semtag.generation.decoding import Decoding, greedy, sampled
from semtag.generation.parse import answer_pattern
from semtag.generation.prompts import PLAIN_TEMPLATE, build_messages, load_tokenizer, takes_system_role
from semtag.generation.records import TEXT
from semtag.generation.sampler import Sampler, engine_arguments, sampling_parameters, seed_of
from semtag.training.reference import reference_logprobs
from semtag.training.tokenized import tokenized
from tests.conftest import ROOT, TINY, tiny_model
from tests.test_training import losses, trainer_for

TEXTS = ["The governor holds the speed of a steam engine.", "Bees make honey in a hive.", "Glass is sand and ash."]


SHOWN = (("A mill grinds grain.", "[mill][grain]"), ("Bees fly.", "[bees]"))


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(ROOT / "configs" / "demo.yaml", TINY)


@pytest.fixture(scope="module")
def base() -> str:
    return tiny_model()


def decodings(config: Config) -> list[Decoding]:
    """Every way to ask that a test needs, by the names above."""
    return [
        sampled(config, "plain", 3),
        sampled(config, "shown", 3, examples=SHOWN),
        greedy(config, "greedy"),
        sampled(config, "fenced", 3, constrained=True),
        greedy(config, "fenced_greedy", constrained=True, examples=SHOWN),
        sampled(config, "fenced_vote", 5, constrained=True, vote=True),
        sampled(config, "vote", 5, vote=True),
    ]


def table(texts: list[str], decoding: str = "plain") -> pa.Table:
    rows = [
        {"text_id": i, "text": text, "article": None, "meta": "{}", "decoding": decoding}
        for i, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, pa.schema([*TEXT, ("decoding", pa.string())]))


def test_an_engine_over_several_gpus_keeps_to_its_actor() -> None:
    several = ["sampling.gpus_per_actor=1", "sampling.tensor_parallel=2"]
    arguments = engine_arguments(load_config(ROOT / "configs" / "demo.yaml", several), "model")
    assert (arguments["tensor_parallel_size"], arguments["distributed_executor_backend"]) == (2, "mp")


class Added:
    """A tally in this process; the real one lives in a Ray actor."""

    def __init__(self) -> None:
        self.total = Counts()

    def add(self, by: Counts, at_once: bool = False) -> None:
        self.total += by


class Engine:
    """A sampler with an event loop of its own, as an actor has one."""

    def __init__(self, config: Config, model: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.sampler = self.loop.run_until_complete(self._start(config, model))

    async def _start(self, config: Config, model: str) -> Sampler:
        self.tally = Added()
        return Sampler(config, model, decodings(config), self.tally)

    def __call__(self, texts: list[str], decoding: str = "plain") -> list[dict[str, Any]]:
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
def plain(config: Config, base: str) -> Iterator[Engine]:
    """Serves a small random model."""
    engine = Engine(config, base)
    yield engine
    engine.close()


def test_a_prompt_that_was_read_is_read_again_from_its_last_block_of_32_on(plain: Engine) -> None:
    """So the samples of a text share its prompt; vLLM's own blocks have 128 tokens on a CPU."""
    (row,) = plain(["The lock lifts a boat from the lower water to the upper one."])
    prompt = {"prompt_token_ids": row["sampled_prompt_ids"]}

    async def cached_tokens() -> int:
        parameters = sampling_parameters(plain.sampler.decodings["greedy"], 0)
        outputs = [output async for output in plain.sampler.engine.generate(prompt, parameters, "again")]
        return int(outputs[-1].num_cached_tokens)

    whole_blocks = (len(row["sampled_prompt_ids"]) - 1) // 32 * 32
    assert plain.loop.run_until_complete(cached_tokens()) == whole_blocks > 0


def logprob_of(model: Any, prompt: list[int], tokens: list[int]) -> float:
    """What transformers makes of a completion, the end token included."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return float(torch.log_softmax(logits, -1).gather(-1, torch.tensor(tokens)[:, None]).sum())


def test_log_probabilities_are_those_of_transformers_at_temperature_1(plain: Engine, base: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    for decoding in ("plain", "shown", "fenced"):
        for row in plain(TEXTS, decoding):
            assert len(row["candidates"]) == 3
            for candidate in row["candidates"]:
                tokens = candidate["token_ids"]
                expected = logprob_of(model, row["sampled_prompt_ids"], tokens)
                assert candidate["num_tokens"] == len(tokens)
                if decoding == "fenced":  # of what the grammar allows, so that it is no reference
                    assert candidate["logprob"] > expected + 1
                else:
                    assert candidate["logprob"] == pytest.approx(expected, abs=1e-3 * len(tokens))


def test_what_was_sampled_serves_as_reference_in_training(plain: Engine, base: str, tmp_path: Path) -> None:
    rows = [
        {
            "text_id": row["text_id"],
            "prompt": row["prompt"],
            "completions": [[{"role": "assistant", "content": c["completion"]}] for c in row["candidates"]],
            "scores": [0.5, 0.25, 0.0],
            "ref_logprobs": [c["logprob"] for c in row["candidates"]],
            "sampled_ids": [c["token_ids"] for c in row["candidates"]],
        }
        for row in plain(TEXTS)
    ]
    lists = tokenized(Dataset.from_list(rows), plain.sampler.chat.tokenizer)
    known = sum(not math.isnan(value) for row in lists["reference"] for value in row)
    assert known > 4  # a random model breaks characters off, and such a completion is not trusted
    said = io.StringIO()
    trainer = trainer_for(base, lists, tmp_path, beta=0.5)
    counts = reference_logprobs(trainer, lists, 1e-3, tmp_path / "kept.npy", Progress("x", "steps", said))
    assert counts["from_sampling"] == known and "log-probabilities from sampling are used" in said.getvalue()
    assert losses(trainer)[0] == pytest.approx(1.0, rel=1e-3)


def test_a_text_draws_the_same_candidates_alone_and_in_a_batch(plain: Engine) -> None:
    together, alone = plain(TEXTS), plain(TEXTS[:1])
    completions = [[c["completion"] for c in row["candidates"]] for row in together]
    assert [c["completion"] for c in alone[0]["candidates"]] == completions[0]
    assert len(set(completions[0])) > 1


def test_greedy_gives_one_candidate(plain: Engine) -> None:
    first, second = plain(TEXTS[:1], "greedy"), plain(TEXTS[:1], "greedy")
    assert len(first[0]["candidates"]) == 1
    assert first == second


@pytest.mark.parametrize(("decoding", "count"), [("fenced", 3), ("fenced_greedy", 1), ("fenced_vote", 1)])
def test_constrained_answers_keep_to_the_grammar(plain: Engine, config: Config, decoding: str, count: int) -> None:
    rows = plain([f"{text} {place}" for place in range(4) for text in TEXTS], decoding)
    found = [candidate for row in rows for candidate in row["candidates"]]
    assert len(found) == 12 * count
    pattern = re.compile(answer_pattern(config.prompt.max_tags, config.prompt.max_tag_words))
    whole = [candidate for candidate in found if candidate.get("finish_reason") != "length"]
    assert len(whole) > 6 * count
    assert all(pattern.fullmatch(candidate["completion"]) for candidate in whole if candidate["format"] == "valid")
    assert {candidate["reason"] for candidate in whole} <= {None, "repeated", "empty"}
    assert "valid" in {candidate["format"] for candidate in whole}


def test_a_text_is_sampled_after_the_examples_and_kept_with_its_plain_prompt(plain: Engine) -> None:
    [shown], [alone] = plain(TEXTS[:1], "shown"), plain(TEXTS[:1])
    assert shown["prompt"] == alone["prompt"] and [turn["role"] for turn in shown["prompt"]] == ["system", "user"]
    assert shown["prompt_ids"] == alone["prompt_ids"] == alone["sampled_prompt_ids"]
    ids = plain.sampler.chat.tokenizer.decode(shown["sampled_prompt_ids"])
    assert ids.count("[mill][grain]</s>") == ids.count("[bees]</s>") == 1 and ids.index("mill") < ids.index(TEXTS[0])
    assert shown["candidates"] != alone["candidates"]


def test_a_vote_is_one_answer_of_what_its_samples_name(plain: Engine) -> None:
    for row in plain(TEXTS, "fenced_vote"):
        [elected] = row["candidates"]
        assert elected["format"] in ("valid", "invalid") and elected["token_ids"] is None
        assert len(elected["tags"]) <= 2


def test_a_text_over_the_context_costs_no_other(plain: Engine) -> None:
    rows = plain([TEXTS[0], "word " * 2000, TEXTS[1]])
    assert [row["reason"] for row in rows] == [None, "too_long", None]
    assert "room for 2008" in rows[1]["detail"]
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
