"""What can be refused before anything is sampled: a model and its chat template that no run could use."""

from typing import Any

from cluster.places import local_folder
from configs.errors import UserError
from configs.schema import Config
from generation.prompts import PROBE, load_tokenizer, rendered, spellings_of


def check_model(model: str, config: Config, served: bool = True, trained: bool = True) -> Any:
    """The tokenizer of a model that is to be `served` by an engine, and `trained` from its own answers, or only one.

    Raises UserError when there is none, when a text could hold tokens that the model has not, or when the chat template
    ends no answer.
    """
    tokenizer = load_tokenizer(model, config.model)
    if served:
        _check_vocabulary(tokenizer, model)
    if trained:
        _check_end(tokenizer, model)
    return tokenizer


def _check_vocabulary(tokenizer: Any, model: str) -> None:
    """An engine dies of a token beyond its model. Control tokens may lie there, because no text can spell them."""
    from transformers import AutoConfig

    try:
        size = AutoConfig.from_pretrained(local_folder(model)).get_text_config().vocab_size
    except (OSError, ValueError) as error:
        raise UserError(f"No model at {model}: {str(error).splitlines()[0]}", "Check model.base.") from None
    control = set(spellings_of(tokenizer))
    beyond = [token for token, id_ in tokenizer.get_vocab().items() if id_ >= size and token not in control]
    if beyond:
        raise UserError(
            f"The tokenizer of {model} has {len(tokenizer):,} tokens, its model {size:,}: {sorted(beyond)[:3]} and "
            "others that a text may hold are unknown to the model.",
            "Take a model.base whose tokenizer is its own, or resize its embeddings.",
        )


def _check_end(tokenizer: Any, model: str) -> None:
    """A model that is trained on answers without an end learns to go on for ever."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
    _, answer, behind = rendered(tokenizer, messages).rpartition(PROBE)
    ends = _end_tokens(tokenizer, model)
    if not answer or not any(end in behind for end in ends):
        raise UserError(
            f"The chat template of {model} ends no answer: behind one it writes {behind!r}, without any of {ends}.",
            "Set model.chat_template to a template that ends the assistant's turns.",
        )


def _end_tokens(tokenizer: Any, model: str) -> list[str]:
    """The end token, and those at which the model is told to stop: some end their turns by another one."""
    from transformers import GenerationConfig

    try:
        stops = GenerationConfig.from_pretrained(local_folder(model)).eos_token_id or []
    except (OSError, ValueError):
        stops = []
    ids = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None}
    return tokenizer.convert_ids_to_tokens(sorted(ids))
