"""Ray in local mode: on loopback and nowhere else."""

import subprocess
import sys

from tests.conftest import ROOT

# In a process of its own: Ray reads where to listen when it is imported.
LISTENERS = """
import psutil
from cluster.progress import Counts
from cluster.session import Tally, ray_session
from configs.load import load_config

with ray_session(load_config("configs/demo.yaml")):
    tally = Tally()
    tally.add(Counts(texts=3, scored=1, score_sum=0.5))
    tally.add(Counts(texts=1, scored=1, score_sum=0.25))
    assert tally.total() == Counts(texts=4, scored=2, score_sum=0.75)
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                print("listens", connection.laddr.ip)
"""


def test_local_mode_listens_on_loopback_alone() -> None:
    command = [sys.executable, "-c", LISTENERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    listening = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("listens")}
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert listening
