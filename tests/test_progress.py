"""What a person sees of long work."""

import io
import threading

import pytest

from semtag.cluster.progress import LINE_EVERY_SECONDS, Counts, Progress
from semtag.cluster.stage_process import describe
from semtag.store.background import repeating


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("rank", "texts", out, clock)
    progress.begin(1000)
    for _ in range(10):
        clock.now += LINE_EVERY_SECONDS / 5
        progress.advance(10, "note")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == "     rank  50 of 1,000 texts, 1.7/s, 9:30 left, note"


def test_a_terminal_gets_a_live_bar_that_goes_away() -> None:
    out, clock = Terminal(), Clock()
    with Progress("train", "steps", out, clock) as progress:
        progress.begin(8)
        clock.now += 7200
        progress.set(4)
    assert "\u2501" * 12 in out.getvalue()
    assert "2:00:00 left" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[2K")


def test_the_line_tells_tokens_format_score_and_cost() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("rank", "texts", out, clock, price=3.5)
    progress.begin(1000)
    clock.now = 10
    progress.show(Counts(), 0)  # from here on nodes are paid for
    batch = Counts(texts=16, candidates=64, valid=60, tokens=1000, scored=62, score_sum=31.0)
    clock.now = 1810
    progress.show(batch + batch, 4)
    # 32 texts and 2,000 tokens in 1,810 s; 968 more take 968/32 as long; 4 nodes for half an hour at 3.5
    figures = "1 tokens/s, 93.8% valid, mean score 0.500, cost 7.00"
    assert out.getvalue().splitlines() == [f"     rank  32 of 1,000 texts, 0.0/s, 15:12:32 left, {figures}"]
    clock.now = 1810 + 3600
    progress.show(batch + batch + batch, 1)
    assert progress.line().endswith("cost 10.50")


def test_without_tokens_or_a_price_the_line_says_nothing_of_them() -> None:
    clock = Clock()
    progress = Progress("rank", "texts", io.StringIO(), clock)
    progress.begin(10)
    clock.now = 1
    progress.show(Counts(texts=1, candidates=2, valid=1), 1)
    assert progress.line() == "1 of 10 texts, 1.0/s, 0:09 left, 50.0% valid"


def test_counts_in_words() -> None:
    counts = {"texts": 1200, "dropped": {"too_long": 3}, "rejects": {}, "mean_score": 0.25, "state": "x"}
    assert describe(counts) == "1,200 texts, dropped: 3 too long, mean score 0.25, state x"
    assert describe({"gain": {"value": 0.1094, "low": -0.02}}) == "gain: value +0.109, low -0.020"


def test_work_that_fails_once_goes_on_and_is_done_once_more_at_the_end() -> None:
    done: list[int] = []
    again = threading.Event()

    def work() -> None:
        done.append(len(done))
        if len(done) == 1:
            raise ConnectionError("the cluster is away")
        again.set()

    with repeating(work, every=0.001, at_end=True):
        assert again.wait(60)
        before = len(done)
    assert len(done) > before


def test_a_silent_cluster_ends_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semtag.store.background.PATIENCE", 0.01)
    asked, answer = threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        answer.wait()

    with repeating(ask, every=0.001, at_end=True):
        assert asked.wait(60)
    assert not answer.is_set()  # the block has ended all the same
    answer.set()
