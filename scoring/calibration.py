"""The correction of a score by what the words of an answer add to it whatever they say.

Cosine similarity grows with every word of the text that an answer repeats, so a filled form beats honest tags. A
regression of the score on words, copied share, runs and frequency (post-hoc reward calibration, arXiv 2409.17407) is no
help where it is fitted on candidates: there the longer answer that copies more is the better one too, and the
regression takes its merit away. A price for words beyond the usual length of a tag leaves short answers alone.
"""

from collections.abc import Sequence

FREE_WORDS = 2.5  # words of a tag, as a mean over an answer, that cost nothing; people's keyphrases have 2.3


def cost_of_words(tags: Sequence[str], price: float) -> float:
    """Compute what the words of an answer cost its score: `price` for each word beyond FREE_WORDS a tag.

    Example: at a price of 0.03, `[governor][steam engine of James Watt]` has 6 words, 1 of them beyond 5, and costs
    0.03.
    """
    words = sum(len(tag.split()) for tag in tags)
    return price * max(0.0, words - FREE_WORDS * len(tags))
