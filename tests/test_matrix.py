"""The losses of every way to train, beside those of a plain PyTorch loop that reads one completion at a time."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from semtag.scoring.records import LIST
from semtag.store.parquet import RowWriter
from semtag.store.run_dir import RunDir
from semtag.training import processes
from tests.conftest import TEXTS, asked, said
from tests.crew import Crew

SEED, BETA, RATE, STEPS = 3, 0.5, 1e-2, 3
# Between the norms of the first two gradients, so that one is clipped. Adam hides the scale of gradients otherwise.
MOST_NORM = 0.7
TOLERANCES = {"float32": {"abs": 1e-4, "rel": 1e-4}, "bfloat16": {"rel": 2e-2}}


@dataclass(frozen=True)
class Way:
    """A way to train: data, dtype, kind of processes, and whether a step takes two passes and checkpoints."""

    data: str
    dtype: str
    kind: str  # one, or training.parallel of two processes
    accumulated: bool

    @property
    def name(self) -> str:
        """Return the name of the test."""
        return "-".join([self.data, self.dtype, self.kind, "accumulated" if self.accumulated else "plain"])

    @property
    def processes(self) -> int:
        """Return the number of processes."""
        return 1 if self.kind == "one" else 2

    @property
    def passes(self) -> int:
        """Return the number of forward passes of a process in a step."""
        return 2 if self.accumulated else 1

    @property
    def batch_size(self) -> int:
        """Return the number of rows in a forward pass. A step takes four rows in every way."""
        return 4 // self.processes // self.passes

    @property
    def rows(self) -> int:
        """Return the number of rows. The third step lacks one row, or three."""
        return 11 if self.processes == 1 else 9

    def settings(self) -> list[str]:
        """Return the overrides of the config."""
        common = ["order=easy_first", f"beta={BETA}", f"learning_rate={RATE}", "warmup=0", f"max_grad_norm={MOST_NORM}"]
        own = [f"data={self.data}", f"dtype={self.dtype}", f"batch_size={self.batch_size}"]
        own += [f"accumulation={self.passes}", f"gradient_checkpointing={self.accumulated}"]
        several = ["launcher=accelerate", f"workers={self.processes}", f"parallel={self.kind}"]
        names = [*common, *own, *(several if self.processes > 1 else [])]
        return [f"run.seed={SEED}", *(f"training.{name}" for name in names)]


@dataclass(frozen=True)
class Ranked:
    """A text with its answers and their scores."""

    text_id: int
    text: str
    answers: list[str]
    scores: list[float]

    def of_pair(self) -> "Ranked":
        """Return the best answer and the worst."""
        order = sorted(range(len(self.scores)), key=self.scores.__getitem__)
        return Ranked(self.text_id, self.text, [self.answers[order[-1]], self.answers[order[0]]], [1.0, 0.0])


def ranked(count: int) -> list[Ranked]:
    """Make lists by falling gap of their scores. Half precision would round the two lower scores to the same one."""
    made = []
    for place in range(count):
        text = " ".join(TEXTS[5 * place : 5 * place + 1 + place % 3])
        words = TEXTS[5 * place].split()
        answers = [f"[{words[3]}][{words[-1]}][old {words[1]}]", f"[{words[1]}]", f"[{words[-1]} of {words[3]}]"]
        # Rows of the first step disagree on which answer is best, so their gradient is short.
        turn, scores = place % 3 if place < 4 else 0, [0.9 - 0.01 * place, 0.4, 0.401]
        made.append(Ranked(7 * place % 11, text, answers, scores[turn:] + scores[:turn]))
    return made


@pytest.fixture
def pairs(way: Way) -> list[dict[str, Any]]:
    """Rows for `work`, in place of its own."""
    unknown = dict.fromkeys(("ref_chosen_logprob", "ref_rejected_logprob", "chosen_ids", "rejected_ids"))
    rows = []
    for one in ranked(way.rows):
        chosen, rejected = map(said, one.of_pair().answers)
        row = {"text_id": one.text_id, "prompt": asked(one.text), "chosen": chosen, "rejected": rejected}
        rows.append(unknown | row | {"margin": max(one.scores) - min(one.scores)})
    return rows


@pytest.fixture
def with_lists(way: Way, tmp_path: Path) -> None:
    """Lists in the run that `work` trains."""
    folder = RunDir(tmp_path / "demo").layout.round(1).lists
    folder.mkdir(parents=True)
    unknown: dict[str, Any] = {"samples": [0, 1, 2], "ref_logprobs": [None] * 3, "sampled_ids": [None] * 3}
    with RowWriter(folder / "part.parquet", LIST) as out:
        for one in ranked(way.rows):
            row = {"text_id": one.text_id, "prompt": asked(one.text), "scores": one.scores}
            out.write(dict.fromkeys(LIST.names) | unknown | row | {"completions": [*map(said, one.answers)]})


def ids_of(tokenizer: Any, one: Ranked) -> tuple[list[int], list[list[int]]]:
    """Return the prompt's token ids, and those of each answer with its end token."""
    prompt = tokenizer.apply_chat_template(asked(one.text), add_generation_prompt=True, return_dict=False)
    answers = []
    for answer in one.answers:
        whole = tokenizer.apply_chat_template([*asked(one.text), *said(answer)], return_dict=False)
        assert whole[: len(prompt)] == prompt and whole[-1] == tokenizer.eos_token_id
        answers.append(whole[len(prompt) :])
    return prompt, answers


def mean_log_probs(model: Any, prompt: list[int], answers: list[list[int]]) -> Tensor:
    """Compute each answer's mean log-probability of a token, from a sequence of its own."""
    found = []
    for answer in answers:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        found.append(logits.float().log_softmax(-1).gather(1, torch.tensor(answer).unsqueeze(1)).mean())
    return torch.stack(found)


def ipo(ratios: Tensor, scores: list[float]) -> Tensor:
    """Return IPO's loss over all pairs of a list."""
    places = itertools.permutations(range(len(scores)), 2)
    return torch.stack(
        [(ratios[i] - ratios[j] - 1 / (2 * BETA)) ** 2 for i, j in places if scores[i] > scores[j]]
    ).mean()


def batches_of_steps(rows: list[Ranked], way: Way) -> Iterator[list[list[Ranked]]]:
    """Yield the batches of all processes in each step; several processes fill the last batches from the first rows."""
    if way.processes > 1:
        rows = rows + rows[: -len(rows) % (way.processes * way.batch_size)]
    batches = [rows[first : first + way.batch_size] for first in range(0, len(rows), way.batch_size)]
    size = way.processes * way.passes
    return (batches[first : first + size] for first in range(0, len(batches), size))


def plain_losses(path: str, way: Way) -> list[float]:
    """Train by a plain loop and return the loss of each step."""
    dtype = getattr(torch, way.dtype)
    torch.manual_seed(SEED)
    reference, model = (AutoModelForCausalLM.from_pretrained(path, dtype=dtype) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(path)
    adapter = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, adapter)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)

    def loss_of(one: Ranked) -> Tensor:
        ids = ids_of(tokenizer, one)
        with torch.no_grad():
            before = mean_log_probs(reference, *ids)
        return ipo(mean_log_probs(model, *ids) - before, one.scores)

    rows = ranked(way.rows)
    steps = batches_of_steps([one.of_pair() for one in rows] if way.data == "pairs" else rows, way)
    losses = []
    for step, batches in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        loss = torch.stack([torch.stack([*map(loss_of, batch)]).mean() for batch in batches]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, MOST_NORM)
        optimizer.step()
        losses.append(loss.item())
    return losses


KINDS = ("one", "ddp", "zero2", "zero3")
WAYS = itertools.starmap(Way, itertools.product(("pairs", "lists"), ("float32", "bfloat16"), KINDS, (False, True)))
IN_EACH_RUN = {
    Way("lists", "float32", "ddp", False),
    Way("lists", "float32", "zero2", True),
    Way("lists", "float32", "zero3", False),
    Way("lists", "bfloat16", "ddp", True),
    Way("lists", "bfloat16", "zero3", True),
    Way("pairs", "bfloat16", "one", True),
}


@pytest.fixture(scope="module")
def crews(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Crew]]:
    """Processes that are started once for all ways of a kind."""
    made: dict[str, Crew] = {}
    yield made
    for crew in made.values():
        crew.end()


@pytest.fixture
def launched(
    way: Way, crews: dict[str, Crew], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a crew train. Semtag's own start of processes is tested in test_processes.py."""
    if way.kind not in crews and way.processes > 1:
        crews[way.kind] = Crew(tmp_path_factory.mktemp("crew") / way.kind, way.processes)
    if way.kind in crews:
        monkeypatch.setattr(processes, "_by_accelerate", crews[way.kind].train)


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, id=way.name, marks=[] if way in IN_EACH_RUN else pytest.mark.cluster) for way in WAYS],
)
def test_losses_are_those_of_a_plain_loop(
    way: Way, work: Any, with_lists: None, launched: None, model_path: str, tmp_path: Path
) -> None:
    expected = plain_losses(model_path, way)
    assert all(abs(loss - 1) > 0.05 for loss in expected[1:])  # learned from the first step on
    work(*way.settings())
    curve = json.loads((RunDir(tmp_path / "demo").layout.round(1).adapter / "curve.json").read_text())
    assert [step["loss"] for step in curve] == pytest.approx(expected, **TOLERANCES[way.dtype])
    if way.dtype != "float32":  # rounded at all
        exact = plain_losses(model_path, replace(way, dtype="float32"))
        assert [step["loss"] for step in curve] != pytest.approx(exact, abs=1e-5)
