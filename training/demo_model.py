"""Builds the demo's base model: a small Llama with its own tokenizer, trained here to answer the prompt fairly well.

It stands in for a 7B base model where no model hub can be reached. It tags by copying salient words, mixes in generic
labels, and malforms part of its answers, so that preference training has something to mend.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from configs.schema import Config, DemoModel
from generation.prompts import build_messages, prompt_ids
from training.demo_answers import GENERIC, Salience, draw_answer, spoil
from training.demo_init import TokenRoles, hold, install_circuits
from training.lists import IGNORED, ListCollator, dense_mask

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"]
_OPENING_WORDS = 14
_ANSWER_ROOM = 64  # tokens of the context kept for an answer


def build_tokenizer(texts: list[str], config: Config) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of whole words without their leading space.

    A word is the same token in running text and inside brackets, so that a small model learns to copy it.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=True),
            decoders.Fuse(),
            decoders.Replace("[ ", "["),
            decoders.Replace(" ]", "]"),
            decoders.Replace("] [", "]["),
        ]
    )
    rng = random.Random(0)
    own_words = [config.prompt.system, config.prompt.user, *GENERIC] + [spoil(["a"], rng, 3) for _ in range(50)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.model.demo.vocabulary, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator([*texts, *own_words * 5], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=config.model.demo.context,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, demo: DemoModel) -> LlamaForCausalLM:
    """An untrained Llama of the configured size."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=demo.width,
            intermediate_size=demo.width // 2,
            num_hidden_layers=demo.layers,
            num_attention_heads=demo.heads,
            num_key_value_heads=demo.heads,
            max_position_embeddings=demo.context,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e8},
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Example(NamedTuple):
    """A rendered prompt and the labels that its answers are drawn from."""

    prompt: list[int]
    labels: list[str]


def build(config: Config, texts: list[str], out: Path, report: Callable[[int, int, float], None]) -> dict[str, float]:
    """Train on `texts`, write model and tokenizer to `out`; returns size in millions, last loss and seconds."""
    started, demo = time.monotonic(), config.model.demo
    torch.manual_seed(config.run.seed)
    tokenizer = build_tokenizer(texts, config)
    examples = _examples(tokenizer, texts, config)
    model = build_model(tokenizer, demo)
    install_circuits(model, _roles(tokenizer, texts, examples, config))
    hold(model)
    optimizer = _optimizer(model, demo.learning_rate)
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step, batch in enumerate(_batches(tokenizer, examples, config)):
        rate = min(1.0, (step + 1) / 20) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / demo.steps)))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1, demo.steps, loss.item())
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return {"parameters": millions, "loss": loss.item(), "seconds": time.monotonic() - started}


def _examples(tokenizer: PreTrainedTokenizerFast, texts: list[str], config: Config) -> list[Example]:
    salience, demo = Salience(texts), config.model.demo
    examples: list[Example] = []
    frame = len(prompt_ids(tokenizer, build_messages("", config.prompt, True)))
    # What lies far behind the opening bears no label and costs time.
    room = max(16, min(demo.context - _ANSWER_ROOM - frame, demo.crop))
    for text in texts:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        cropped = text[: offsets[min(room, len(offsets)) - 1][1]]
        prompt = prompt_ids(tokenizer, build_messages(cropped, config.prompt, True))
        examples.append(Example(prompt, salience.labels(cropped, _OPENING_WORDS)))
    return examples


def _roles(tokenizer: PreTrainedTokenizerFast, texts: list[str], examples: list[Example], config: Config) -> TokenRoles:
    """Count how often a token starts a label where it occurs, and find the tokens that the circuits look at."""
    size, generic = len(tokenizer), config.model.demo.generic
    seen, chosen = torch.zeros(size), torch.zeros(size)
    for example in examples:
        seen[list(set(example.prompt))] += 1
        chosen[list({_encode(tokenizer, label)[0] for label in example.labels})] += 1
    share = (1 - generic) * chosen / chosen.sum() + 1e-3 / size
    for token, count in Counter(_encode(tokenizer, label)[0] for label in GENERIC).items():
        share[token] += generic * count / len(GENERIC)
    words = tokenizer.convert_ids_to_tokens(list(range(size)))
    silent = [i for i, word in enumerate(words) if i < len(SPECIAL) or not any(map(str.isalnum, word))]
    frame = prompt_ids(tokenizer, build_messages("", config.prompt, True))
    user, bracket, assistant = tokenizer.convert_tokens_to_ids(["<|user|>", "[", "<|assistant|>"])
    pieces = sum(len(_encode(tokenizer, text)) for text in texts) / sum(len(text.split()) for text in texts)
    return TokenRoles(
        salience=(torch.log((chosen + 0.2) / (seen + 2)) + 2.3).clamp(-4, 2),
        prior=torch.log(share) + 7,
        continues=torch.tensor([word.startswith("##") for word in words]),
        silent=torch.tensor(silent),
        bracket=bracket,
        user=user,
        assistant=assistant,
        opening=len(frame) - frame.index(user) + int(_OPENING_WORDS * pieces),
    )


def _optimizer(model: LlamaForCausalLM, rate: float) -> torch.optim.Optimizer:
    """Adam moves every weight by about its rate: freely in the MLPs and norms, gently where circuits read and write."""
    groups: dict[float, list[torch.nn.Parameter]] = {1.0: [], 0.1: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            free = ("mlp" in name and ".layers.0." not in name) or "norm" in name
            groups[1.0 if free else 0.1].append(parameter)
    parameters = [{"params": members, "lr": rate * factor} for factor, members in groups.items()]
    return torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.0)


def _batches(
    tokenizer: PreTrainedTokenizerFast, examples: list[Example], config: Config
) -> Iterator[dict[str, Tensor]]:
    """Batches of lists as the trainer has them, a list a row; each answer is drawn anew, and none is better."""
    demo, rng = config.model.demo, random.Random(config.run.seed)
    collate, nothing = ListCollator(tokenizer.pad_token_id, budget=1), [0.0] * demo.answers
    order: list[Example] = []
    for _ in range(demo.steps):
        while len(order) < demo.batch_size:
            order += rng.sample(examples, len(examples))
        chosen, order = order[: demo.batch_size], order[demo.batch_size :]
        drawn = [
            [
                draw_answer(example.labels, rng, config.prompt.max_tags, demo.malformed, demo.generic)
                for _ in range(demo.answers)
            ]
            for example in chosen
        ]
        answers = [[[*_encode(tokenizer, text), tokenizer.eos_token_id] for text in texts] for texts in drawn]
        yield collate(
            [
                {"row": row, "prompt_ids": example.prompt, "completion_ids": own, "scores": nothing}
                for row, (example, own) in enumerate(zip(chosen, answers, strict=True))
            ]
        )


def _loss(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> Tensor:
    mask, targets = dense_mask(batch["lists"], batch["completions"]), batch["shift_labels"]
    predicting = targets != IGNORED
    # bfloat16 is several times faster where the CPU has it; weights and optimizer stay in float32.
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=batch["input_ids"], attention_mask=mask, position_ids=batch["position_ids"], use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[predicting])
    return torch.nn.functional.cross_entropy(logits.float(), targets[predicting])


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
