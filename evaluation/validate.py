"""The validate stage: what a round gained, on train texts that no round learns from."""

from typing import Any

import numpy as np

from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import ray_session
from semtag.cluster.stage_process import stage_main
from semtag.configs.schema import Config, Prompt
from semtag.evaluation.corpus import answer_of, scores_of, valid_of
from semtag.evaluation.measures import longest_span, word_count
from semtag.evaluation.statistics import bootstrap_mean
from semtag.generation.decoding import greedy
from semtag.scoring.pipeline import sample_and_score
from semtag.store.locations import Place
from semtag.store.manifest import StepCounts
from semtag.store.parquet import count_rows, read_rows
from semtag.store.rounds import start_of
from semtag.store.run_dir import RunDir

Rows = list[dict[str, Any]]
CRAMMED = 0.8  # of the words that an answer may have
MOST_CHEATS = 0.05  # by which the share of a kind may rise in a round before it is said


def validate(run: RunDir, config: Config, progress: Progress, number: int) -> StepCounts:
    """Have the round's model answer the validation texts as a tagger is asked; returns form, score and gain.

    The gain is the mean difference in score from the round before, malformed answers as 0, with its paired 95 %
    bootstrap interval. Round 0 is the untouched model.
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
    before, after = (_rows(run.layout.round(one).validation) for one in (number - 1, number))
    scores, scores_before = scores_of(_answers(after)), scores_of(_answers(before))
    shares, shares_before = cheats(after, config.prompt), cheats(before, config.prompt)
    for name in shares:
        if shares[name] > shares_before[name] + MOST_CHEATS:
            rise = f"{shares_before[name]:.0%} to {shares[name]:.0%}"
            progress.say(f"warning: answers that are {name.replace('_', ' ')} rose from {rise}; read some of them")
    return {
        "texts": len(after),
        "well_formed": float(valid_of(_answers(after)).mean()),
        "mean_score": float(np.mean(scores)),
        "gain": bootstrap_mean(scores - scores_before, config.evaluation.resamples, config.run.seed)._asdict(),
        "cheats": shares,
    }


def cheats(rows: Rows, prompt: Prompt) -> dict[str, float]:
    """Shares of the answers that are of a kind that the score rewards though it tags little.

    A cut run is a piece of the text, cut into tags. A crammed answer fills the words that the form allows.
    """
    room = CRAMMED * prompt.max_tags * prompt.max_tag_words
    cut, crammed = 0, 0
    for row, answer in zip(rows, _answers(rows), strict=True):
        words = word_count(answer["tags"])
        cut += len(answer["tags"]) > 1 and longest_span(row["text"], answer["tags"]) == words
        crammed += words >= room
    return {"cut_runs": cut / len(rows), "crammed": crammed / len(rows)}


def _rows(folder: Place) -> Rows:
    """The answered texts, in order of their ids."""
    return sorted(read_rows(folder), key=lambda row: row["text_id"])


def _answers(rows: Rows) -> Rows:
    return [*map(answer_of, rows)]


if __name__ == "__main__":
    stage_main("validate", validate)
