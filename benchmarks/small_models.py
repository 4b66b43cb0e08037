"""Small Llamas with random weights, for tests and benchmarks in which a model has to answer, not well."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.contest import demo_texts
from semtag.configs.schema import SYSTEM

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"]
# Overrides of the demo under which a model of random weights answers well formed: the grammar ends each of its tags.
SMALL = [
    "prompt.examples=[]",
    "prompt.max_tags=2",
    "prompt.max_tag_words=1",
    "sampling.constrained=true",
    "sampling.samples=2",
    "sampling.max_tokens=40",
    "sampling.dtype=float32",
]
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def build_tokenizer(texts: Iterable[str], vocabulary: int = 1000) -> Any:
    """Train a byte-level BPE tokenizer of at most `vocabulary` tokens, with a chat template that ends each turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def save_random_llama(folder: Path, tokenizer: Any, seed: int = 0, **shape: Any) -> str:
    """Save a Llama with random float32 weights, of the shape TINY unless told otherwise, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **TINY | {"max_position_embeddings": 2048} | shape,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_small(folder: Path) -> str:
    """Save a random Llama whose tokenizer knows the demo's words; with the overrides SMALL it does any job."""
    texts = [*demo_texts(840), *[SYSTEM] * 20]  # so often that the prompt is read in few tokens
    return save_random_llama(folder, build_tokenizer(texts, vocabulary=4000))
