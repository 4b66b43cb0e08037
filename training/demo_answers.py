"""Training answers for the demo's base model: salient words of a text, spoilt the way a 7B base model spoils them."""

import math
import random
import re
from collections import Counter
from collections.abc import Iterable

from generation.parse import answer_of

GENERIC = (
    "history", "science", "nature", "information", "overview", "general", "article", "facts",
    "description", "people", "world", "things", "knowledge", "summary", "topic", "education",
)  # fmt: skip

_WORD = re.compile(r"[^\W\d_]+")
_COMMON = 0.04  # a word in more than this share of the texts is no label


class Salience:
    """Finds label candidates: words of a text by TF-IDF over a corpus."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.document_frequency: Counter[str] = Counter()
        self.documents = 0
        for text in texts:
            self.documents += 1
            self.document_frequency.update({word.lower() for word in _WORD.findall(text)})

    def labels(self, text: str, opening: int, count: int = 5) -> list[str]:
        """Up to `count` words of the text, most salient first; those among the first `opening` words come before."""
        words = _WORD.findall(text)
        uses = Counter(word.lower() for word in words)
        weights: dict[str, tuple[float, str]] = {}
        for place, word in enumerate(words):
            frequency = self.document_frequency[word.lower()]
            if len(word) >= 4 and frequency <= max(2, _COMMON * self.documents):
                rarity = math.log((1 + self.documents) / (1 + frequency))
                weight = (1 + math.log(uses[word.lower()])) * rarity * (1.0 if place < opening else 0.4)
                weights.setdefault(word.lower(), (weight, word))
        ranked = sorted(weights.values(), key=lambda item: -item[0])
        return [word for _, word in ranked[:count]]


def draw_answer(labels: list[str], rng: random.Random, max_tags: int, malformed: float, generic: float) -> str:
    """One training answer: tags drawn from `labels`, some generic, and now and then malformed."""
    count = min(max_tags, len(labels) or 1, rng.choices((1, 2, 3), weights=(1, 2, 7))[0])
    # Earlier labels are more salient; the draw without replacement prefers them.
    tags = sorted(labels, key=lambda _: rng.expovariate(1.0))[:count] if rng.random() < 0.3 else labels[:count]
    spoilt = [rng.choice(GENERIC) if rng.random() < generic else tag for tag in tags]
    tags = list(dict.fromkeys(spoilt)) or [rng.choice(GENERIC)]
    return spoil(tags, rng, max_tags) if rng.random() < malformed else answer_of(tags)


def spoil(tags: list[str], rng: random.Random, max_tags: int) -> str:
    """A malformed completion around `tags`, in one of the ways that base models fail.

    A repeated tag is not among them: the model repeats often enough by itself, and to be taught to would undo the
    head that keeps it from it (demo_init).
    """
    answer = answer_of(tags)
    more = list(dict.fromkeys([*tags, *rng.sample(GENERIC, max_tags + 1)]))[: max_tags + 2]
    return rng.choice(
        (
            f"Sure! Here are the labels: {answer}",  # extra text before
            f"{answer} These labels describe the text.",  # extra text after
            answer_of(more),  # too many
            answer[:-1],  # unbalanced
            ", ".join(tags),  # no brackets
            f"{answer}[]",  # an empty tag
        )
    )
