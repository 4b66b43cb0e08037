"""Checks before sampling, which refuse a model or a chat template that no run could use."""

import re
from typing import Any

from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.prompts import around_answer, end_tokens, load_tokenizer, rendered, spellings_of
from semtag.store.locations import local_folder

ASKED = [{"role": "user", "content": "?"}]  # shows what a template writes around any question


def check_model(model: str, config: Config, served: bool = True, trained: bool = True) -> Any:
    """Check a model that an engine serves (`served`), or that is trained (`trained`), and return its tokenizer.

    Raises UserError when the model has no tokenizer, or when a text could hold tokens that the model lacks. Raises
    UserError when the configured window is longer than the model's, or when the chat template ends no answer.
    """
    tokenizer = load_tokenizer(model, config.model)
    if served:
        known = _text_config(model)
        _check_vocabulary(tokenizer, model, known.vocab_size)
        _check_window(model, known, config.sampling.max_model_len)
    if trained:
        _check_end(tokenizer, model)
    return tokenizer


def _check_vocabulary(tokenizer: Any, model: str, size: int) -> None:
    """Check that the model knows each token that a text can hold, because an unknown token kills the engine.

    Control tokens may be unknown, because no text can spell them.
    """
    control = set(spellings_of(tokenizer))
    beyond = [token for token, id_ in tokenizer.get_vocab().items() if id_ >= size and token not in control]
    if beyond:
        raise UserError(
            f"The tokenizer of {model} has {len(tokenizer):,} tokens, but the model knows {size:,}. A text may hold "
            f"tokens that the model does not know, such as {', '.join(sorted(beyond)[:3])}.",
            "Set model.base to a model with its own tokenizer, or resize the embeddings of the model.",
        )


def _check_end(tokenizer: Any, model: str) -> None:
    """Check that the chat template ends an answer, because a model trained without an end never stops."""
    _, answer, behind = around_answer(tokenizer, ASKED)
    ends = end_tokens(tokenizer, model)
    if not answer or not any(end in behind for end in ends):
        raise UserError(
            f"The chat template of {model} ends no answer: after an answer the template writes {behind!r}, without any "
            f"of {ends}.",
            "Set model.chat_template to a template that ends the assistant's turns.",
        )


def template_warnings(tokenizer: Any) -> list[str]:
    """Return what a chat template does that spoils a tagger: it opens answers with a thought, or writes the date."""
    prompt, (opening, _, _) = rendered(tokenizer, ASKED, add_generation_prompt=True), around_answer(tokenizer, ASKED)
    another_day = rendered(tokenizer, ASKED, add_generation_prompt=True, strftime_now=lambda _: "another day")
    found = []
    if opening != prompt:
        found.append(
            f"the chat template asks for an answer by {prompt[-40:]!r}, but shows one behind {opening[-40:]!r}. "
            f"The model may think aloud before its tags. {_mend(tokenizer, 'enable_thinking', 'false')}"
        )
    if another_day != prompt:
        mend = _mend(tokenizer, "date_string", "'26 Jul 2024'")
        found.append(f"the chat template writes today's date, so prompts of other days differ. {mend}")
    return found


def _mend(tokenizer: Any, variable: str, value: str) -> str:
    """Name the variable of the chat template that mends it, if the template reads that variable."""
    if re.search(rf"\b{variable}\b", tokenizer.get_chat_template()):
        return f"Set model.chat_template_kwargs={{{variable}: {value}}}."
    return "Set model.chat_template to a copy that does not."


def _text_config(model: str) -> Any:
    """Return the part for text of the model's own config. Raises UserError when there is no model."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(local_folder(model), trust_remote_code=False).get_text_config()
    except (OSError, ValueError) as error:
        raise UserError(f"No model at {model}: {str(error).splitlines()[0]}", "Check model.base.") from None


def check_base(model: str, config: Config, first: int = 1) -> None:
    """Check that the model has the window and the layers of each round from `first` on. Raises UserError otherwise."""
    rounds = [config.of_round(number) for number in range(first, config.rounds.count + 1)]
    windows = {one.sampling.max_model_len for one in rounds if one.sampling.max_model_len}
    targets = [one.training.lora.target_modules for one in rounds if one.training.lora.target_modules != "all-linear"]
    if not windows and not targets:
        return
    known = _text_config(model)
    for window in windows:
        _check_window(model, known, window)
    if targets:
        layers = _layers(local_folder(model))
        for target in targets:
            _check_targets(model, layers, target)


def window_of(model: str) -> int | None:
    """Return the most tokens that a model can read; None if its config does not say. Raises UserError for no model."""
    return _window(_text_config(model))


def _window(known: Any) -> int | None:
    # With scaled positions the real window is longer, so vLLM checks the window.
    scaled = "factor" in str(getattr(known, "rope_parameters", None))
    return None if scaled else getattr(known, "max_position_embeddings", None)


def _check_window(model: str, known: Any, window: int | None) -> None:
    longest = _window(known)
    if longest and window and window > longest:
        raise UserError(
            f"sampling.max_model_len {window} is more than {model} can read: {longest} tokens.",
            f"Set sampling.max_model_len to {longest} or less, or leave it out.",
        )


def _layers(folder: str) -> dict[str, bool]:
    """Return the model's layers by name, and whether each may get an adapter. No weights are loaded.

    Embeddings and the output layer get no adapter, because the loss reads the weights of the output layer alone.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map="meta", use_safetensors=True, trust_remote_code=False
    )
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    kinds = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
    return {name: id(layer) not in ends for name, layer in model.named_modules() if isinstance(layer, kinds)}


def _check_targets(model: str, layers: dict[str, bool], targets: str | list[str]) -> None:
    """Check targets as PEFT reads them: a regular expression of whole names, or a list of last parts of names."""
    patterns = [targets] if isinstance(targets, str) else [rf"(.*\.)?{re.escape(target)}" for target in targets]
    for pattern, target in zip(patterns, [targets] if isinstance(targets, str) else targets, strict=True):
        found = [name for name in layers if re.fullmatch(pattern, name)]
        if not found or not all(layers[name] for name in found):
            what = "is no layer" if not found else "is a layer of the vocabulary, which gets no adapter,"
            able = sorted({name.rpartition(".")[2] for name, able in layers.items() if able})
            raise UserError(
                f"training.lora.target_modules: {target} {what} of {model}.",
                f"Name some of {', '.join(able)}, or set all-linear.",
            )
