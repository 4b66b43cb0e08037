"""Merge of a round's adapter into the weights that the round started from."""

import shutil
from pathlib import Path


def merge(base: str, adapter: str, out: Path) -> None:
    """Write the model at `base` with `adapter` merged into it, and its tokenizer, to the folder `out`.

    Weights are added in float32 and rounded once, to the dtype of the base. An adapter trained over 4-bit weights is
    added to the full weights. Answers then differ by the quantisation error.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    dtype = AutoConfig.from_pretrained(base, trust_remote_code=False).dtype or torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload().to(dtype)
    # Save the generation settings apart, because save_pretrained refuses settings that contradict each other.
    generation, merged.generation_config = merged.generation_config, GenerationConfig()
    merged.save_pretrained(out)
    generation.to_json_file(out / "generation_config.json")
    AutoTokenizer.from_pretrained(adapter, trust_remote_code=False).save_pretrained(out)
    # A model that also sees or hears is not served without the settings of its processor.
    for settings in Path(base).glob("*processor_config.json"):
        shutil.copy(settings, out)
    # Write the adapter's model card for the merged weights.
    card = (Path(adapter) / "README.md").read_text(encoding="utf-8")
    card = card.replace("library_name: peft", "library_name: transformers") + "\nThese weights contain the adapter.\n"
    (out / "README.md").write_text(card, encoding="utf-8")
