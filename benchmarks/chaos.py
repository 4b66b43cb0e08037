"""Does a job survive anything? Kills while it runs, then a proof that nothing was lost, done twice or changed.

    python -m benchmarks.chaos --kills 40 --store both --json chaos.json
    python -m benchmarks.chaos --rounds 2 --json rounds.json

Ranking runs once in peace. Then it runs again while processes of it are killed with `kill -9`: engines, actors, other
Ray workers, the raylet, the driver. The command line is ended too, by `kill` and by `kill -9`. The whole job is killed
within the commit of a block, after each of its steps. The same command is started again while the first one works, and
must be refused. A job that dies is started again by the same command, as a user would. At the end `semtag verify` must
hold, and every row must equal the one of the quiet run; scores and log-probabilities are compared to 1e-5, because
their last digits depend on the batch. The model is a small one of random weights. With --store s3 the runs lie on an S3
server on loopback.

With --rounds a whole job is tormented: each step of each round is ended by `kill -9` of its process, by `kill` and by
`kill -9` of the command line, at moments that change from step to step, and each time the same command goes on. Rows
must equal those of a quiet run likewise, and weights bit for bit: candidates come from within the grammar, so training
computes its references itself. Those from sampling would differ in their last digits, and weights with them.
"""

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import commits, family, stores
from benchmarks.contest import demo_texts, machine, markdown, publish
from benchmarks.family import Family, kill
from benchmarks.kills import KILL, MISSED, TERM, compare, compare_runs, count_finished, torment_steps
from benchmarks.small_models import SMALL, save_small
from benchmarks.stores import Store, store_on_loopback
from semtag.configs.load import load_config
from semtag.store.layout import RoundLayout
from semtag.store.locations import Place, place_at
from semtag.store.run_dir import RunDir

CONFIG = "configs/demo.yaml"
# Of a job of rounds: many blocks and checkpoints, a warm start and then preferences, no round that ends it early.
ROUNDS = [
    *("data.held_out=0.3", "sampling.batch_size=4", "sampling.in_flight=1", "rounds.least_gain=0"),
    *("pairs.format_share=0.5", "training.dtype=float32", "training.batch_size=4", "training.save_steps=2"),
    *("training.max_steps=12", "rounds.each=[{training: {loss: likelihood, best: 2}}, {}]"),
    "evaluation.arms=[yake]",
]
SECOND = "second job"
KINDS = (*family.KINDS, TERM, KILL, SECOND)
STEPS = {"disk": commits.ON_DISK, "s3": stores.STEPS}  # of a commit
BUCKET = "chaos"
LEAST_TEXTS = 600  # so that a job goes on for some seconds after its first commit
SPARE = 5  # starts that may bring nothing, beside one for each kill: a commit on a disk is not always met


class Torment:
    """A ranking that is ended in many ways and started again by the same command."""

    def __init__(self, arguments: list[str], layout: RoundLayout, rng: random.Random, store: Store | None) -> None:
        self.command = [sys.executable, "-m", "semtag", "rank", *arguments]
        self.layout, self.rng, self.store = layout, rng, store

    def run(self, kinds: list[str], pause: float) -> dict[str, Any]:
        """Run to the end, with each of `kinds` done to it on the way; returns what happened.

        Half of them come right after rows were committed (all, with a pause of 0), the others after up to `pause`
        seconds. Raises RuntimeError when starts bring nothing too often.
        """
        left, met, starts, vain = list(kinds), Counter[str](), 0, 0
        while True:
            job, starts, before = subprocess.Popen(self.command), starts + 1, len(left)
            with _ended(members := Family(job.pid), job):
                while left and job.poll() is None:
                    seconds = self.rng.uniform(0, pause) if pause and self.rng.random() < 0.5 else None
                    _wait(job, members, self.layout.sampled_ids, seconds)
                    if done := self._strike_first(left, job, members):
                        met[done] += 1
                        if done in left:
                            left.remove(done)
                        print(f"{dict(met)}, {count_finished(self.layout.sampled_ids):,} texts done", flush=True)
                job.wait()
            if job.returncode == 0:
                return {"met": dict(met), "missed": dict(Counter(left)), "starts": starts, "starts in vain": vain}
            vain += len(left) == before
            if vain > SPARE + len(kinds):
                raise RuntimeError(f"{vain} starts brought nothing; the last one has exit status {job.returncode}")

    def _strike_first(self, kinds: list[str], job: subprocess.Popen[bytes], members: Family) -> str | None:
        """Do the first of the kinds for which there is a victim; the engine may have sampled all by now."""
        for kind in kinds:
            if job.poll() is None and (done := self._strike(kind, job, members)):
                return done
        return None

    def _strike(self, kind: str, job: subprocess.Popen[bytes], members: Family) -> str | None:
        """Do to the job what `kind` says; returns what that came to, None where it was done before."""
        if kind.startswith("commit"):
            return commits.end_in_commit(kind, job, members, self.layout, self.store)
        if kind == SECOND:
            return kind if self._is_refused(job) else None
        if kind in (TERM, KILL):
            job.terminate() if kind == TERM else job.kill()
            job.wait()
            return kind
        if victims := members.of_kind(kind):
            kill(self.rng.choice(victims))
        return kind if victims else None

    def _is_refused(self, job: subprocess.Popen[bytes]) -> bool:
        """Whether the same command is refused while the job works. Raises RuntimeError where both work."""
        second = subprocess.run(self.command, capture_output=True, text=True, check=False)
        if job.poll() is not None:
            return False  # it was done meanwhile, or died of an earlier kill
        if second.returncode != 2 or "Another process works on" not in second.stderr:
            raise RuntimeError(f"two jobs on one run: the second ended with {second.returncode}: {second.stderr}")
        return True


@contextlib.contextmanager
def _ended(members: Family, job: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the job where the block is left by an error."""
    try:
        yield
    except BaseException:
        members.end()
        job.wait()
        raise


def _wait(job: subprocess.Popen[bytes], members: Family, ids: Place, seconds: float | None) -> None:
    """Wait for `seconds`, or with None until the next commit; or for the job's end."""
    start, before = time.monotonic(), _commits(ids)
    while job.poll() is None:
        members.watch()
        if seconds is not None and time.monotonic() - start >= seconds:
            return
        if seconds is None and _commits(ids) > before:
            return
        time.sleep(0.005 if isinstance(ids, Path) else 0.1)


def _commits(ids: Place) -> int:
    with contextlib.suppress(FileNotFoundError):  # the ranking has ended meanwhile
        return sum(not file.name.endswith(".pending.parquet") for file in ids.glob("*/*.parquet"))
    return 0


def ranking(arguments: argparse.Namespace, job: list[str]) -> bool:
    """Rank in peace, then in torment; returns whether all kinds were met and nothing lost, done twice or changed."""
    data = arguments.root / "texts.jsonl"
    texts = demo_texts(arguments.texts or max(LEAST_TEXTS, 60 * arguments.kills))
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    job = [f"data.path={data}", "data.limit=null", "data.held_out=0", "rounds.validation=0", "rounds.count=1", *job]
    job += ["sampling.batch_size=16", "sampling.in_flight=2", *arguments.overrides]
    found = {}
    for name in STEPS if arguments.store == "both" else (arguments.store,):
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(store_on_loopback(BUCKET, arguments.root / "cache")) if name == "s3" else None
            found[name] = _rank_twice(arguments, job, name, store)
    publish({"machine": machine(), "stores": found}, table(found), arguments.json)
    if any(story["missed"] for story in found.values()):
        print("A job was done before all of this was done to it: lower --pause, or give it more --texts.")
    return all(
        story["verified"] and not story["lost"] + story["twice"] + story["different"] and not story["missed"]
        for story in found.values()
    )


def _rank_twice(arguments: argparse.Namespace, job: list[str], name: str, store: Store | None) -> dict[str, Any]:
    root = place_at(f"s3://{BUCKET}/runs" if store else arguments.root)
    calm, stormy = ([CONFIG, f"run.root={root}", f"run.name={run}", *job] for run in ("calm", "stormy"))
    semtag("rank", *calm)
    all_kinds = [kind for kind in (*KINDS, *STEPS[name]) if kind.startswith(arguments.only)]
    kinds = [all_kinds[number % len(all_kinds)] for number in range(arguments.kills)]
    rng, begin = random.Random(arguments.seed), time.monotonic()
    rng.shuffle(kinds)
    one, other = (RunDir(root / run).layout.round(1) for run in ("calm", "stormy"))
    story = Torment(stormy, other, rng, store).run(kinds, arguments.pause) | compare(one.ranked, other.ranked)
    return story | {"verified": verified(root / "stormy"), "seconds": round(time.monotonic() - begin)}


def table(found: dict[str, dict[str, Any]]) -> str:
    """What happened in each store, as a Markdown table: a line a kind, and a line a figure."""
    stories = list(found.values())
    kinds = sorted({kind for story in stories for kind in story["met"] | story["missed"]})
    met = [story["met"] for story in stories]
    lines = [_line(kind, met) for kind in kinds]
    figures = [name for name in stories[0] if name not in ("met", "missed")]
    return markdown(["", *found], lines + [_line(name, stories) for name in figures])


def _line(name: str, columns: list[dict[str, Any]]) -> list[int | str]:
    return [name, *(_said(column.get(name, 0)) for column in columns)]


def _said(value: int | bool) -> int | str:
    return ("yes" if value else "no") if isinstance(value, bool) else value


def whole_job(arguments: argparse.Namespace, job: list[str]) -> bool:
    """The same for a whole job of rounds, with each of its steps ended in each way."""
    job += [f"data.limit={arguments.texts or 80}", f"rounds.count={arguments.rounds}", *ROUNDS, *arguments.overrides]
    root = f"run.root={arguments.root}"
    calm, stormy = ([CONFIG, root, f"run.name={name}", *job] for name in ("calm", "stormy"))
    semtag("run", *calm)
    one, other = (RunDir(arguments.root / name) for name in ("calm", "stormy"))
    begin = time.monotonic()
    kills = torment_steps(stormy, other, load_config(stormy[0], stormy[1:]), arguments.once)
    found = compare_runs(one, other, arguments.rounds)
    sound, seconds = verified(arguments.root / "stormy"), round(time.monotonic() - begin)
    tables = markdown(["step", "ended", "at", "the same command again"], [list(kill.values()) for kill in kills])
    differences = [[name, *counts.values()] for name, counts in found.items()]
    tables += "\n\n" + markdown(["", "rows or tensors", "lost", "twice", "different"], differences)
    tables += f"\n\nverified: {'yes' if sound else 'no'}; {seconds:,} s"
    result = {"machine": machine(), "kills": kills, "compared": found, "verified": sound, "seconds": seconds}
    publish(result, tables, arguments.json)
    wrong = sum(counts["lost"] + counts["twice"] + counts["different"] for counts in found.values())
    if missed := sum(kill["at"] == MISSED for kill in kills):
        print(f"{missed} steps were done before they could be ended: give them more --texts.")
    return sound and not wrong + missed


def semtag(*arguments: str) -> None:
    """Run the command line, which must end well."""
    subprocess.run([sys.executable, "-m", "semtag", *arguments], check=True)


def verified(run: Place) -> bool:
    """Whether `semtag verify` finds nothing wrong."""
    return not subprocess.run([sys.executable, "-m", "semtag", "verify", str(run)], check=False).returncode


def main() -> int:
    """Torment what was asked for; returns 0 when it came to what a quiet run comes to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=0, help="torment a whole job of so many rounds, not ranking")
    parser.add_argument("--once", action="store_true", help="with --rounds: end each step once, each in another way")
    parser.add_argument("--kills", type=int, default=20, help="of ranking: what is done to it; of each kind in turn")
    parser.add_argument("--only", default="", metavar="BEGIN", help="of ranking: kinds whose names begin so")
    parser.add_argument("--store", choices=[*STEPS, "both"], default="disk", help="of ranking: where its runs lie")
    parser.add_argument("--seed", type=int, default=0, help="of ranking: for the moments and victims")
    parser.add_argument(
        "--texts",
        type=int,
        help="texts, enough to outlast the kills; default 60 a kill, at least 600; with --rounds 80",
    )
    parser.add_argument("--pause", type=float, default=45, help="of ranking: longest wait before a kill, in seconds")
    parser.add_argument("--root", type=Path, default=Path("runs/chaos"), help="folder of the runs; emptied")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides for both runs")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.root, ignore_errors=True)
    arguments.root.mkdir(parents=True)
    job = [f"model.base={save_small(arguments.root / 'model')}", *SMALL, "sampling.samples=4"]
    return 0 if (whole_job if arguments.rounds else ranking)(arguments, job) else 1


if __name__ == "__main__":
    sys.exit(main())
