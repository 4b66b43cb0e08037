"""Does a job survive anything? Kills while it runs, then a proof that nothing was lost, done twice or changed.

    python -m benchmarks.chaos --kills 20 --json chaos.json
    python -m benchmarks.chaos --rounds 2 --json rounds.json

Ranking runs once in peace. Then it runs again while processes of it are killed with `kill -9`: engines, actors, other
Ray workers, the raylet, the driver. A job that dies of it is started again by the same command, as a user would. At the
end `semtag verify` must hold, and every row must equal the one of the quiet run; scores and log-probabilities are
compared to 1e-5, because their last digits depend on the batch. The model is a small one of random weights.

With --rounds a whole job is tormented: each step of each round is ended by `kill -9` of its process, by `kill` and by
`kill -9` of the command line, at moments that change from step to step, and each time the same command goes on. Rows
must equal those of a quiet run likewise, and weights bit for bit: candidates come from within the grammar, so training
computes its references itself. Those from sampling would differ in their last digits, and weights with them.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from benchmarks.contest import demo_texts, machine, markdown, publish
from benchmarks.kills import MISSED, compare, compare_runs, count_finished, torment_steps
from benchmarks.small_models import SMALL, save_small
from cluster.places import Place
from cluster.run_dir import RunDir
from configs.load import load_config

CONFIG = "configs/demo.yaml"
# Of a job of rounds: many blocks and checkpoints, a warm start and then preferences, no round that ends it early.
ROUNDS = [
    *("data.held_out=0.3", "sampling.batch_size=4", "sampling.in_flight=1", "rounds.least_gain=0"),
    *("pairs.format_share=0.5", "training.dtype=float32", "training.batch_size=4", "training.save_steps=2"),
    *("training.max_steps=12", "rounds.each=[{training: {loss: likelihood, best: 2}}, {}]"),
    *("evaluation.arms=[yake]", "evaluation.resamples=100"),
]
KINDS = ("engine", "actor", "worker", "raylet", "driver")


class Family:
    """The processes of a job, remembered also when their parents are gone."""

    def __init__(self, pid: int) -> None:
        self.driver = psutil.Process(pid)
        self.members: dict[int, psutil.Process] = {}

    def look(self) -> list[psutil.Process]:
        """All living members, the ones that came since the last look included."""
        for parent in [self.driver, *self.members.values()]:
            try:
                self.members |= {child.pid: child for child in parent.children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
        self.members = {pid: member for pid, member in self.members.items() if member.is_running()}
        return list(self.members.values())

    def of_kind(self, kind: str) -> list[psutil.Process]:
        """The living members that one of KINDS names."""
        return [member for member in self.look() if kind_of(member) == kind]

    def end(self) -> None:
        """Kill what is left of the job."""
        for member in self.look():
            kill(member)


def title_of(process: psutil.Process) -> str:
    """The title that a process gave itself; nothing where it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kind_of(process: psutil.Process) -> str | None:
    """Which of KINDS a process is, if any, by its title."""
    title = title_of(process)
    if "EngineCore" in title:
        return "engine"
    if title.startswith("ray::"):
        return "actor" if "Sampler" in title or "Scorer" in title else "worker"
    if "/raylet/raylet " in title:
        return "raylet"
    return "driver" if "scoring.rank_texts" in title else None


def kill(process: psutil.Process) -> None:
    """`kill -9`, unless it is gone already."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def torment(
    arguments: list[str], finished: Place, kinds: list[str], rng: random.Random, pause: float
) -> dict[str, Any]:
    """Run `semtag rank ARGUMENTS` to its end, killing a process of each of `kinds` on the way; returns what happened.

    Half of the kills come right after rows were committed (all, with a pause of 0), the others after up to `pause`
    seconds.
    """
    left, killed, starts = list(kinds), Counter[str](), 0
    while True:
        job = subprocess.Popen([sys.executable, "-m", "cluster.cli", "rank", *arguments])
        family, starts = Family(job.pid), starts + 1
        while job.poll() is None:
            seconds = rng.uniform(0, pause) if pause and rng.random() < 0.5 else None
            _wait(job, family, finished, seconds, bool(left))
            victims = family.of_kind(left[0]) if left and job.poll() is None else []
            if victims:
                kill(rng.choice(victims))
                killed[left.pop(0)] += 1
                print(f"killed: {dict(killed)}, {count_finished(finished):,} texts done", flush=True)
        family.end()
        if job.returncode == 0:
            return {"killed": dict(killed), "starts": starts}
        if not left and starts > len(kinds) + 1:
            raise RuntimeError(f"the job failed with nothing killed: exit status {job.returncode}")


def _wait(job: subprocess.Popen[bytes], family: Family, finished: Place, seconds: float | None, armed: bool) -> None:
    """Wait for the next kill, `seconds` or with None until the next commit, while `armed`; or for the job's end."""
    start, before = time.monotonic(), count_finished(finished)
    while job.poll() is None:
        family.look()
        if not armed:
            time.sleep(0.2)
        elif seconds is not None:
            if time.monotonic() - start >= seconds:
                return
            time.sleep(0.05)
        elif count_finished(finished) > before:
            return
        else:
            time.sleep(0.005)


def ranking(arguments: argparse.Namespace, job: list[str]) -> bool:
    """Rank in peace, then in torment; returns whether all were killed and nothing was lost, done twice or changed."""
    data = arguments.root / "texts.jsonl"
    texts = demo_texts(arguments.texts or 1200)
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    job = [f"data.path={data}", "data.limit=null", "data.held_out=0", "rounds.validation=0", *job]
    job += ["sampling.batch_size=16", "sampling.in_flight=2", *arguments.overrides]
    calm, stormy = ([CONFIG, f"run.name={name}", *job] for name in ("calm", "stormy"))
    semtag("rank", *calm)
    rng = random.Random(arguments.seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(arguments.kills)]
    rng.shuffle(kinds)
    one, other = (RunDir(arguments.root / name).layout.round(1) for name in ("calm", "stormy"))
    begin = time.monotonic()
    story = torment(stormy, other.sampled_ids, kinds, rng, arguments.pause)
    result = story | compare(one.ranked, other.ranked)
    result |= {"verified": verified(arguments.root / "stormy"), "seconds": round(time.monotonic() - begin)}
    publish({"machine": machine(), **result}, markdown(list(result), [list(map(str, result.values()))]), arguments.json)
    if sum(story["killed"].values()) < arguments.kills:
        print(f"The job was done before {arguments.kills} processes were killed: lower --pause, or give it more texts.")
        return False
    return result["verified"] and not result["lost"] + result["twice"] + result["different"]


def whole_job(arguments: argparse.Namespace, job: list[str]) -> bool:
    """The same for a whole job of rounds, with each of its steps ended in each way."""
    job += [f"data.limit={arguments.texts or 80}", f"rounds.count={arguments.rounds}", *ROUNDS, *arguments.overrides]
    calm, stormy = ([CONFIG, f"run.name={name}", *job] for name in ("calm", "stormy"))
    semtag("run", *calm)
    one, other = (RunDir(arguments.root / name) for name in ("calm", "stormy"))
    begin = time.monotonic()
    kills = torment_steps(stormy, other, load_config(stormy[0], stormy[1:]))
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
    subprocess.run([sys.executable, "-m", "cluster.cli", *arguments], check=True)


def verified(run: Path) -> bool:
    """Whether `semtag verify` finds nothing wrong."""
    return not subprocess.run([sys.executable, "-m", "cluster.cli", "verify", str(run)], check=False).returncode


def main() -> int:
    """Torment what was asked for; returns 0 when it came to what a quiet run comes to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=0, help="torment a whole job of so many rounds, not ranking")
    parser.add_argument("--kills", type=int, default=20, help="of ranking: processes to kill; of each kind in turn")
    parser.add_argument("--seed", type=int, default=0, help="of ranking: for the moments and victims")
    parser.add_argument("--texts", type=int, help="texts, enough to outlast the kills; default 1200, with --rounds 80")
    parser.add_argument("--pause", type=float, default=45, help="of ranking: longest wait before a kill, in seconds")
    parser.add_argument("--root", type=Path, default=Path("runs/chaos"), help="folder of the runs; emptied")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides for both runs")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.root, ignore_errors=True)
    arguments.root.mkdir(parents=True)
    job = [f"run.root={arguments.root}", f"model.base={save_small(arguments.root / 'model')}", *SMALL]
    job += ["sampling.samples=4"]
    return 0 if (whole_job if arguments.rounds else ranking)(arguments, job) else 1


if __name__ == "__main__":
    sys.exit(main())
