"""The correction of a score by what the words of an answer add to it whatever they say.

Cosine similarity grows with every word of the text that an answer repeats, so a filled form beats honest tags. A
regression of the score on words, copied share, runs and frequency (post-hoc reward calibration, arXiv 2409.17407) is no
help where it is fitted on candidates: there the longer answer that copies more is the better one too, and the
regression takes its merit away. A price for words beyond the usual length of a tag leaves short answers alone.
"""

from collections.abc import Sequence

from semtag.generation.parse import count_words
from semtag.generation.records import Candidate

FREE_WORDS = 2.5  # words of a tag, as a mean over an answer, that cost nothing; people's keyphrases have 2.3


def cost_of_words(tags: Sequence[str], price: float) -> float:
    """Compute what the words of an answer cost its score: `price` for each word beyond FREE_WORDS a tag.

    Example: at a price of 0.03, `[governor][steam engine of James Watt]` has 6 words, 1 of them beyond 5, and costs
    0.03.
    """
    return price * max(0.0, count_words(tags) - FREE_WORDS * len(tags))


def length_of_best(candidates: Sequence[Candidate]) -> int:
    """Compare the words of the best valid answer with the mean of all valid ones: 1 for more, -1 for fewer, or 0.

    Example: answers of 6, 3 and 3 words, of which the first has the highest score, give 1.
    """
    valid = [one for one in candidates if one.format == "valid" and one.score is not None]
    if not valid:
        return 0
    words = [count_words(one.tags) for one in valid]
    best, mean = count_words(max(valid, key=lambda one: one.score or 0.0).tags), sum(words) / len(words)
    return (best > mean) - (best < mean)
