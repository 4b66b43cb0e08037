"""Ray in local mode: on loopback and nowhere else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.conftest import ROOT

# In a process of its own: Ray reads where to listen when it is imported.
LISTENERS = """
import os, psutil, ray
from semtag.cluster.progress import Counts
from semtag.cluster.ray_session import Tally, ray_session
from semtag.configs.load import load_config

with ray_session(load_config("configs/demo.yaml")):
    tally = Tally()
    tally.add(Counts(texts=3, scored=1, score_sum=0.5))
    tally.add(Counts(texts=1, scored=1, score_sum=0.25), at_once=True)
    assert tally.total() == Counts(texts=4, scored=2, score_sum=0.75)
    around = os.path.dirname(ray._private.worker.global_worker.node.temp_dir)
    assert os.stat(around).st_mode & 0o77 == 0  # no other user's
    print("folder", around)
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                print("listens", connection.laddr.ip)
"""


def test_local_mode_listens_on_loopback_alone_and_leaves_nothing(tmp_path: Path) -> None:
    # No socket fits into a folder of such a name.
    temporary = tmp_path / ("x" * 80)
    temporary.mkdir()
    command, environment = [sys.executable, "-c", LISTENERS], os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("folder")]
    assert folder.startswith("/tmp/semtag-") and not Path(folder).exists()
    assert list(temporary.iterdir()) == []
    listening = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("listens")}
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert listening


# Killed while its Ray is up. Two of Ray's agents would live on for a minute, and the run with them, and what a worker
# started would live on for ever: here by one that came after the others.
KILLED = """
import os, psutil, ray, subprocess
from semtag.cluster.ray_session import ray_session
from semtag.configs.load import load_config

with ray_session(load_config("configs/demo.yaml")):
    start = lambda: subprocess.Popen(["sleep", "600"], start_new_session=True).pid
    ray.get(ray.remote(runtime_env={"env_vars": {"LATE": "1"}})(start).remote())
    print(os.path.dirname(ray._private.worker.global_worker.node.temp_dir))
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_nothing_of_its_ray() -> None:
    command = [sys.executable, "-c", KILLED]
    killed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    folder, pids = killed.stdout.splitlines()
    left = [psutil.Process(int(pid)) for pid in pids.split() if psutil.pid_exists(int(pid))]
    assert psutil.wait_procs(left, timeout=30)[1] == []
    end = time.monotonic() + 90
    while Path(folder).exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(folder).exists()
