"""Does ranking survive anything? Kills at random while one job runs, then proves that nothing was lost or done twice.

    python -m benchmarks.chaos --kills 20 --json chaos.json

The job runs once in peace. Then it runs again while processes of it are killed with `kill -9`: engines, actors, other
Ray workers, the raylet, the driver. A job that dies of it is started again by the same command, as a user would. At the
end `semtag verify` must hold, and every row must equal the one of the quiet run; scores are compared to 1e-6, because
an embedding's last digits depend on the batch that it was made in. The model is a small one of random weights.
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
from benchmarks.small_models import SMALL, save_small
from cluster.parquet import read_rows
from cluster.places import Place
from cluster.run_dir import RunDir
from scoring.rank_texts import count_finished

CONFIG = "configs/demo.yaml"
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


def kind_of(process: psutil.Process) -> str | None:
    """Which of KINDS a process is, if any, by the title that it gave itself."""
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return None
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


def compare(calm: Path, tormented: Path) -> dict[str, int]:
    """How many texts were lost, came twice, or have other candidates than in the quiet run."""
    expected = {row["text_id"]: row for row in read_rows(RunDir(calm).layout.round(1).ranked)}
    seen: Counter[int] = Counter()
    different = 0
    for row in read_rows(RunDir(tormented).layout.round(1).ranked):
        seen[row["text_id"]] += 1
        different += not _same(expected.get(row["text_id"]), row)
    return {
        "texts": len(expected),
        "lost": len(expected.keys() - seen.keys()),
        "twice": sum(times > 1 for times in seen.values()),
        "different": different,
    }


def _same(left: dict[str, Any] | None, right: dict[str, Any]) -> bool:
    if left is None or left | {"candidates": 0} != right | {"candidates": 0}:
        return False
    for one, other in zip(left["candidates"], right["candidates"], strict=True):
        if one | {"score": 0} != other | {"score": 0} or (one["score"] is None) != (other["score"] is None):
            return False
        if one["score"] is not None and abs(one["score"] - other["score"]) > 1e-6:
            return False
    return True


def main() -> int:
    """Run in peace, then in torment; returns 0 when all were killed and nothing was lost, done twice or changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="processes to kill; of each kind in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    parser.add_argument("--texts", type=int, default=1200, help="texts to rank; enough to outlast the kills")
    parser.add_argument("--pause", type=float, default=45, help="longest wait before a kill, in seconds")
    parser.add_argument("--root", type=Path, default=Path("runs/chaos"), help="folder of the runs; emptied")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides for both runs")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.root, ignore_errors=True)
    arguments.root.mkdir(parents=True)
    data = arguments.root / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in demo_texts(arguments.texts)))
    job = [f"data.path={data}", "data.limit=null", "data.held_out=0", "rounds.validation=0", *SMALL]
    job += [f"model.base={save_small(arguments.root / 'model')}", "sampling.samples=4", "sampling.batch_size=16"]
    job += ["sampling.in_flight=2", *arguments.overrides]
    calm, stormy = ([CONFIG, f"run.root={arguments.root}", f"run.name={name}", *job] for name in ("calm", "stormy"))
    subprocess.run([sys.executable, "-m", "cluster.cli", "rank", *calm], check=True)
    rng = random.Random(arguments.seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(arguments.kills)]
    rng.shuffle(kinds)
    run, start = arguments.root / "stormy", time.monotonic()
    story = torment(stormy, RunDir(run).layout.round(1).sampled_ids, kinds, rng, arguments.pause)
    verified = subprocess.run([sys.executable, "-m", "cluster.cli", "verify", str(run)], check=False).returncode == 0
    result = story | compare(arguments.root / "calm", run)
    result |= {"verified": verified, "seconds": round(time.monotonic() - start)}
    publish({"machine": machine(), **result}, markdown(list(result), [list(map(str, result.values()))]), arguments.json)
    if sum(story["killed"].values()) < arguments.kills:
        print(f"The job was done before {arguments.kills} processes were killed: lower --pause, or give it more texts.")
        return 1
    return 0 if verified and not result["lost"] + result["twice"] + result["different"] else 1


if __name__ == "__main__":
    sys.exit(main())
