"""The validate stage: what a round gained, on train texts that no round learns from."""

from typing import Any

import numpy as np

from cluster.parquet import count_rows, read_rows
from cluster.places import Place
from cluster.progress import Progress
from cluster.rounds import start_of
from cluster.run_dir import RunDir
from cluster.session import ray_session
from cluster.stage import stage_main
from configs.schema import Config
from evaluation.metrics import scores_of, valid_of
from evaluation.statistics import bootstrap_mean
from generation.decoding import greedy
from scoring.rank_texts import sample_and_score

Answers = list[dict[str, Any]]
NO_ANSWER: dict[str, Any] = {"format": "invalid", "score": None, "tags": []}  # of a text that could not be sampled


def validate(run: RunDir, config: Config, progress: Progress, number: int) -> dict[str, Any]:
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
        with ray_session(config), run.sharing(run.layout.round(model).validation) as folder:
            sample_and_score(
                texts, folder, config, start_of(run, config, model + 1), [greedy(config, "greedy")], progress
            )
    before, after = (_answers(run.layout.round(one).validation) for one in (number - 1, number))
    scores = scores_of(after)
    gain = bootstrap_mean(scores - scores_of(before), config.evaluation.resamples, config.run.seed)
    return {
        "texts": len(after),
        "well_formed": float(valid_of(after).mean()),
        "mean_score": float(np.mean(scores)),
        "gain": gain._asdict(),
    }


def _answers(folder: Place) -> Answers:
    """The answer to each text, in order of the text's id."""
    rows = sorted(read_rows(folder), key=lambda row: row["text_id"])
    return [row["candidates"][0] if row["candidates"] else NO_ANSWER for row in rows]


if __name__ == "__main__":
    stage_main("validate", validate)
