"""Whether a base model has what the keys of a run ask of it, found out before anything is sampled."""

import re
from typing import Any

from cluster.places import local_folder
from configs.errors import UserError
from configs.schema import Config


def check_base(model: str, config: Config, first: int = 1) -> None:
    """Raises UserError where a round from the `first` on asks for a window or for layers that the model lacks."""
    rounds = [config.of_round(number) for number in range(first, config.rounds.count + 1)]
    windows = {one.sampling.max_model_len for one in rounds if one.sampling.max_model_len}
    targets = [one.training.lora.target_modules for one in rounds if one.training.lora.target_modules != "all-linear"]
    if not windows and not targets:
        return
    from transformers import AutoConfig

    try:
        known = AutoConfig.from_pretrained(local_folder(model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"No model at {model}: {str(error).splitlines()[0]}", "Check model.base.") from None
    for window in windows:
        _check_window(model, known.get_text_config(), window)
    if targets:
        layers = _layers(local_folder(model))
        for target in targets:
            _check_targets(model, layers, target)


def _check_window(model: str, known: Any, window: int) -> None:
    longest = getattr(known, "max_position_embeddings", None)
    # Where positions are scaled, the window is another one than that, and the engine's to tell.
    if longest and window > longest and "factor" not in str(getattr(known, "rope_parameters", None)):
        raise UserError(
            f"sampling.max_model_len {window} is more than {model} can read: {longest} tokens.",
            f"Set sampling.max_model_len to {longest} or less, or leave it out.",
        )


def _layers(folder: str) -> dict[str, bool]:
    """The model's layers by name, with their weights left where they are, and whether each may get an adapter.

    The layers that know the vocabulary get none: the loss reads the weights of the last one without its adapter.
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
    """As PEFT reads them: a regular expression of whole names, or a list of last parts of names."""
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
