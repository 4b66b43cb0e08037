"""The scorers of a config: the cosine of the embeddings, cross-encoders, and functions or classes of the user's own.

Suffixes of array names: T texts, C the candidates of a text.
"""

import functools
import importlib
import itertools
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from semtag.configs.errors import UserError
from semtag.configs.scoring import CROSS_ENCODER, EMBEDDING, Criterion, Scoring
from semtag.generation.records import SampledText
from semtag.scoring.embedder import Embedder
from semtag.scoring.similarity import DIGITS, Scores, cosines, tag_string, with_scores
from semtag.store.locations import local_folder
from semtag.store.packaged import source_of

TagLists = Sequence[Sequence[str]]


class Score(Protocol):
    """A scorer of the user's own, or an instance of the user's class, which is made once for each actor."""

    def __call__(self, texts: Sequence[str], answers: Sequence[TagLists]) -> Sequence[Sequence[float]]:
        """Return a score for each answer of each text, `scores_T_C`: higher is better, and a worthless answer has 0.

        `answers` has the tag lists of each text. Example: texts `["Bees make honey."]` with answers
        `[[["bees"], ["bees", "honey"]]]` may have the scores `[[1.0, 2.0]]`.
        """


@dataclass(frozen=True)
class OwnScorer:
    """A user's scorer: its name in the config, and its source where that is a file, which other nodes may lack."""

    by: str
    source: str | None

    def find(self) -> Any:
        """Return the function or the class. Raises UserError if there is none."""
        where, _, name = self.by.rpartition(":")
        try:
            if self.source is None:
                module: Any = importlib.import_module(where)
            else:
                module = types.ModuleType(f"_scorer_{Path(where).stem}")
                module.__file__ = where
                sys.modules[module.__name__] = module  # dataclasses look their module up
                exec(compile(self.source, where, "exec"), vars(module))
            found = getattr(module, name)
        except Exception as error:
            raise UserError(f"The scorer {self.by} cannot be read: {_said(error)}", "Try it in Python.") from None
        if not callable(found):
            raise UserError(f"The scorer {self.by} is no function and no class.", "Name one that can be called.")
        return found

    def load(self) -> Score:
        """Return the function, or an instance of the class. Raises UserError if it cannot be made."""
        found = self.find()
        try:
            return found() if isinstance(found, type) else found  # type: ignore[no-any-return]
        except Exception as error:
            raise UserError(
                f"The scorer {self.by} cannot be made: {_said(error)}", "Semtag makes a class without arguments."
            ) from None


def own_scorers(scoring: Scoring) -> dict[str, OwnScorer]:
    """Read the user's scorers that the config names, by their names. Raises UserError for a file that is not there."""
    found = {}
    for by in (one.by for one in scoring.scorers if one.by not in (EMBEDDING, CROSS_ENCODER)):
        source = source_of(by)
        if source is None:
            raise UserError(
                f"The scorer {by} is not there: no such file or module.",
                "A file is looked for below the folder in which the command starts.",
            )
        is_file = by.rpartition(":")[0].endswith(".py")
        found[by] = OwnScorer(by, source.read_text(encoding="utf-8") if is_file else None)
    return found


def check_scorers(scoring: Scoring) -> None:
    """Check that each of the user's scorers is there, before anything is sampled. Raises UserError."""
    for scorer in own_scorers(scoring).values():
        scorer.find()


class Criteria:
    """The loaded scorers of a config, which score and rank texts. `embedder` is None where no scorer embeds."""

    def __init__(self, scoring: Scoring, own: Mapping[str, OwnScorer]) -> None:
        self.embedder = Embedder(scoring) if any(one.by == EMBEDDING for one in scoring.scorers) else None
        self._weights = [one.weight for one in scoring.scorers]
        self._scorers = [self._loaded(one, own) for one in scoring.scorers]
        self._digits = DIGITS[scoring.dtype if self.embedder else "float32"]

    def _loaded(
        self, criterion: Criterion, own: Mapping[str, OwnScorer]
    ) -> Callable[[Sequence[SampledText]], list[Scores]]:
        if criterion.by == EMBEDDING:
            assert self.embedder
            return functools.partial(cosines, embed_texts=self.embedder.texts, embed_tags=self.embedder.tags)
        score = cross_encoded(criterion.model or "") if criterion.by == CROSS_ENCODER else own[criterion.by].load()
        return functools.partial(scored_by, score=score, name=criterion.by)

    def score(self, texts: Sequence[SampledText]) -> list[SampledText]:
        """Score and rank the candidates of texts. A text that a scorer fails at is rejected, and costs no other."""
        return with_scores(texts, [score(texts) for score in self._scorers], self._weights, self._digits)


def scored_by(texts: Sequence[SampledText], score: Score, name: str) -> list[Scores]:
    """Score the candidates with tags by a user's scorer: all texts at once, or each alone where that fails."""
    asked = [*map(_tagged, texts)]
    places = [number for number, own in enumerate(asked) if own]
    try:
        found = _called(score, [texts[number] for number in places], [asked[number] for number in places])
    except Exception as error:
        if len(places) > 1:
            return list(itertools.chain.from_iterable(scored_by([text], score, name) for text in texts))
        found = [f"the scorer {name} failed: {_said(error)}"]
    known = dict(zip(places, found, strict=True))
    return [known.get(number, {}) for number in range(len(texts))]


def _tagged(text: SampledText) -> list[int]:
    """Return the places of the candidates with tags."""
    return [place for place, one in enumerate(text.candidates) if one.tags]


def _tags_at(text: SampledText, places: Sequence[int]) -> list[list[str]]:
    return [list(text.candidates[place].tags) for place in places]


def _called(score: Score, texts: Sequence[SampledText], asked: Sequence[Sequence[int]]) -> list[Scores]:
    if not texts:
        return []
    lists = [_tags_at(text, own) for text, own in zip(texts, asked, strict=True)]
    found = score([text.text for text in texts], lists)
    scores_T_C = [[*map(float, own)] for own in found]
    given, expected = [*map(len, scores_T_C)], [*map(len, asked)]
    if given != expected:
        raise ValueError(f"it gave {given} scores for {expected} answers")
    return [dict(zip(own, scores, strict=True)) for own, scores in zip(asked, scores_T_C, strict=True)]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def cross_encoded(name: str) -> Score:
    """Load a scorer that reads a text and its tags together (Nogueira and Cho 2019, arXiv 1901.04085).

    A score is the model's sigmoid, in [0, 1]. Raises UserError as `cross_encoder` does.
    """
    predict = cross_encoder(name, "scoring.scorers")

    def score(texts: Sequence[str], answers: Sequence[TagLists]) -> list[list[float]]:
        pairs = [(text, tag_string(tags)) for text, own in zip(texts, answers, strict=True) for tags in own]
        values = iter((1 / (1 + np.exp(-predict(pairs)))).tolist())
        return [list(itertools.islice(values, len(own))) for own in answers]

    return score


def cross_encoder(name: str, key: str) -> Callable[[list[tuple[str, str]]], np.ndarray]:
    """Load a model that reads two texts together and gives one score; the scores are as they leave the model, [N].

    Raises UserError that names the `key` when the model cannot be loaded or does not give one score.
    """
    import torch
    from sentence_transformers import CrossEncoder

    try:
        model = CrossEncoder(local_folder(name), trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        raise UserError(
            f"Cannot load the cross-encoder {name}: {str(error).splitlines()[0]}", f"Check {key}."
        ) from None
    if model.num_labels != 1:
        raise UserError(f"The cross-encoder {name} gives {model.num_labels} scores, not one.", f"Check {key}.")
    # A sigmoid would make ties of all scores that are high.
    return lambda pairs: np.asarray(model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False))
