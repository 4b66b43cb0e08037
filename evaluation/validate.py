"""The validate stage: what a round gained, on train texts that no round learns from."""

from typing import NamedTuple

import numpy as np

from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import ray_session
from semtag.cluster.stage_process import stage_main
from semtag.configs.schema import Config, Prompt
from semtag.evaluation.answers import Answer, answer_of
from semtag.evaluation.measures import longest_run, stems_of, words_of_all
from semtag.evaluation.statistics import mean_interval
from semtag.generation.decoding import greedy
from semtag.scoring.pipeline import sample_and_score
from semtag.store.locations import Place
from semtag.store.manifest import StepCounts
from semtag.store.parquet import count_rows, read_rows
from semtag.store.rounds import start_of
from semtag.store.run_dir import RunDir

CRAMMED = 0.8  # of the words that an answer may have
MOST_CHEATS = 0.05  # by which the share of a kind may rise in a round before it is said


class Answered(NamedTuple):
    """N texts and the answers of one model."""

    texts: list[str]
    answers: list[Answer]

    @property
    def scores_N(self) -> np.ndarray:
        """Return the score of each answer, shape [N]; malformed answers count as 0."""
        return np.array([answer.score if answer.valid else 0.0 for answer in self.answers], dtype=float)


class Cheats(NamedTuple):
    """Shares of the answers: pieces of the text that are cut into tags, and answers that fill the words allowed."""

    cut_runs: float
    crammed: float


def validate(run: RunDir, config: Config, progress: Progress, number: int) -> StepCounts:
    """Have the round's model answer the validation texts as a tagger is asked; return form, score and gain.

    The gain is the mean difference in score from the round before, malformed answers as 0, with Student's 95 %
    interval. Round 0 is the untouched model.
    """
    texts = run.layout.validation_texts
    if not count_rows(texts):
        progress.say("rounds.validation leaves no text to measure gains on")
        return {"texts": 0}
    for model in (0, 1) if number == 1 else (number,):
        progress.say(f"{'the untouched model' if model == 0 else f'the model of round {model}'} answers")
        with ray_session(config), run.replace_shared_folder(run.layout.round(model).validation) as folder:
            sample_and_score(
                texts, folder, config, start_of(run, config, model + 1), [greedy(config, "greedy")], progress
            )
    before, after = (read_answers(run.layout.round(one).validation) for one in (number - 1, number))
    shares, shares_before = count_cheats(after, config.prompt), count_cheats(before, config.prompt)
    for said, share, share_before in zip(Cheats._fields, shares, shares_before, strict=True):
        if share > share_before + MOST_CHEATS:
            rise = f"{share_before:.0%} to {share:.0%}"
            progress.say(f"warning: answers that are {said.replace('_', ' ')} rose from {rise}; read some of them")
    scores_N = after.scores_N
    gain = mean_interval(scores_N - before.scores_N, np.arange(len(scores_N)), bounded=False)
    return {
        "texts": len(scores_N),
        "well_formed": float(np.mean([answer.valid for answer in after.answers])),
        "mean_score": float(scores_N.mean()),
        "gain": gain._asdict(),
        "cheats": shares._asdict(),
    }


def read_answers(folder: Place) -> Answered:
    """Read the answers to the validation texts, in order of the texts' ids."""
    rows = sorted(read_rows(folder), key=lambda row: row["text_id"])
    return Answered([row["text"] for row in rows], [answer_of(row) for row in rows])


def count_cheats(answered: Answered, prompt: Prompt) -> Cheats:
    """Compute the share of the answers of each kind that the score rewards though it tags little."""
    room = CRAMMED * prompt.max_tags * prompt.max_tag_words
    cut, crammed = 0, 0
    for text, answer in zip(*answered, strict=True):
        words = len(words_of_all(answer.tags))
        run = longest_run(stems_of(text), stems_of(" ".join(answer.tags)))
        cut += len(answer.tags) > 1 and run == words
        crammed += words >= room
    return Cheats(cut / len(answered.texts), crammed / len(answered.texts))


if __name__ == "__main__":
    stage_main("validate", validate)
