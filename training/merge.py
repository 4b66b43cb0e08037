"""`semtag merge`: the base model with the adapter folded into its weights, for servers that take no adapters."""

import argparse
import contextlib
import sys
from pathlib import Path

from cluster.places import local_folder, naming_store, uri
from cluster.run_dir import RunDir
from configs.errors import UserError
from configs.schema import Config
from scoring.rank_texts import base_model

FOLDER = "merged"


def merge(run: RunDir, config: Config) -> None:
    """Write the merged model and its tokenizer to merged/ of the run, in the base's own precision.

    An adapter trained over 4-bit weights is added to the base's full ones, as its makers advise: the answers differ by
    what quantisation had changed. Raises UserError when the run has no adapter yet.
    """
    if not run.is_done("train"):
        raise UserError(f"{run.path} has no trained adapter yet.", "Do `semtag run` or `semtag train` first.")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter, base = local_folder(uri(run.path / "model")), local_folder(base_model(run, config))
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", use_safetensors=True, trust_remote_code=False)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=False)
    card = (Path(adapter) / "README.md").read_text(encoding="utf-8")
    with run.writing(FOLDER) as folder:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        card = card.replace("library_name: peft", "library_name: transformers") + "\nThe adapter is merged here.\n"
        (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> int:
    """`python -m training.merge RUN`."""
    parser = argparse.ArgumentParser(description="Fold a run's adapter into its base model.")
    parser.add_argument("run", help="the run directory")
    run = RunDir(parser.parse_args().run)
    try:
        # What libraries say on their way must not mix with the path, which other commands may read.
        with naming_store(run.path), contextlib.redirect_stdout(sys.stderr):
            config = run.config()
            with run.lock():
                merge(run, config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(run.path / FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main())
