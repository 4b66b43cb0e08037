"""A real Ray head with a token on this machine, and jobs sent to it: by Ray's own command and by `semtag submit`."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from semtag.cluster.ray_session import LOOPBACK
from semtag.cluster.submit import _connect, entrypoint, say_what_is_sent, sent
from semtag.configs.errors import UserError
from semtag.store.parquet import read_rows
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT, semtag, tiny_demo

BIN = Path(sys.executable).parent
LOCAL = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@dataclass
class Head:
    """A Ray head that this test started."""

    process: psutil.Popen
    url: str
    gcs: str
    environment: dict[str, str]

    def run(self, *command: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end with the head's token, apart from the changes to the environment."""
        environment = {key: value for key, value in (self.environment | changes).items() if value is not None}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    def submit(self, *arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "semtag", "submit", *arguments, "--address", self.url, **changes)

    def listeners(self) -> set[str]:
        """Addresses on which the head and all its children listen."""
        found = set()
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                connections = process.net_connections("inet")
            except psutil.Error:
                continue  # it ended meanwhile
            found |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
        return found


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Not pytest's folder: the path of a Unix socket holds 107 characters.
    scratch = tempfile.mkdtemp(prefix="ray")
    gcs, dashboard, agent, client = free_ports(4)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | LOOPBACK
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    # A job's `python` is the one on the head's path, and it must find no other copy than the one it is sent.
    environment = environment | {"PATH": f"{BIN}:{environment['PATH']}"}
    environment.pop("PYTHONPATH", None)
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=6", "--object-store-memory=200000000"),
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={scratch}"),
        # Ray believes what it is told: two GPUs of a kind, for actors that hold one and never touch it.
        *("--num-gpus=2", '--resources={"accelerator_type:H100": 1}'),
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0"),
    ]
    with Path(scratch, "start.log").open("w") as log:
        process = psutil.Popen(command, env=environment, cwd=scratch, stdout=log, stderr=log)
    started = Head(process, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment)
    try:
        deadline = time.monotonic() + 120
        while started.run(str(BIN / "ray"), "job", "list", "--address", started.url).returncode:
            assert process.poll() is None and time.monotonic() < deadline, Path(scratch, "start.log").read_text()
            time.sleep(1)
        yield started
    finally:
        # `ray stop` would end every Ray of this machine.
        ours = [process, *process.children(recursive=True)]
        for one in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.terminate()
        for one in psutil.wait_procs(ours, timeout=5)[1]:
            one.kill()
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.cluster
def test_ray_s_own_command_does_the_demo_s_ranking(head: Head, finished_run: Path, tmp_path: Path) -> None:
    arguments = ["rank", *tiny_demo(tmp_path, "cluster.address=auto")]
    job = ["job", "submit", "--address", head.url, "--working-dir", ".", "--", "python", "-m", "semtag"]
    with (tmp_path / "job.log").open("w") as log:
        submitted = subprocess.Popen([str(BIN / "ray"), *job, *arguments], cwd=ROOT, env=head.environment, stdout=log)
        listened: set[str] = set()
        while submitted.poll() is None:
            listened |= head.listeners()
            time.sleep(10)  # to look costs the job a second of its core
    said = (tmp_path / "job.log").read_text()
    assert submitted.returncode == 0, said
    assert "succeeded" in said
    assert listened and listened <= LOCAL
    assert ranked(tmp_path / "demo").keys() == ranked(finished_run).keys()
    assert semtag("verify", str(tmp_path / "demo")).returncode == 0


def ranked(run: Path) -> dict[int, Any]:
    """The candidates of round 1, by text."""
    return {row["text_id"]: row["candidates"] for row in read_rows(RunDir(run).layout.round(1).ranked)}


def replay(finished_run: Path, root: Path) -> list[str]:
    """Arguments that rank a finished run anew without an engine."""
    data = [f"data.path={RunDir(finished_run).layout.round(1).ranked}", "data.format=parquet", "data.held_out=0"]
    data += ["rounds.count=1", "rounds.validation=0"]
    return tiny_demo(root, *data, "sampling.engine=replay", "sampling.candidates=candidates")


@pytest.mark.cluster
def test_semtag_submit_follows_a_job_to_its_end(head: Head, finished_run: Path, tmp_path: Path) -> None:
    placed = ["sampling.gpus_per_actor=1", "sampling.accelerator_type=H100", "sampling.max_actors=2"]
    done = head.submit(*replay(finished_run, tmp_path), *placed, "--stage", "rank")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCEEDED" in done.stdout
    assert "rank-1  done: " in done.stdout  # the job's own words
    assert head.environment["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr
    assert ranked(tmp_path / "demo") == ranked(finished_run)  # without an engine
    assert semtag("verify", str(tmp_path / "demo")).returncode == 0


@pytest.mark.cluster
def test_a_job_that_fails_is_told(head: Head, tmp_path: Path) -> None:
    done = head.submit(*tiny_demo(tmp_path, f"data.path={tmp_path / 'none.jsonl'}"), "--stage", "rank")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in done.stdout
    assert "No such file" in done.stdout


@pytest.mark.cluster
def test_a_job_that_the_cluster_cannot_hold_ends_at_once(head: Head, finished_run: Path, tmp_path: Path) -> None:
    unknown = ["sampling.gpus_per_actor=1", "sampling.accelerator_type=H200"]
    done = head.submit(*replay(finished_run, tmp_path), *unknown, "--stage", "rank")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No node of the cluster at cluster.address=auto has an accelerator of type H200" in done.stdout


@pytest.mark.cluster
def test_ctrl_c_leaves_the_job_alone(head: Head, finished_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "semtag", "submit", *replay(finished_run, tmp_path), "--stage", "rank"]
    following = subprocess.Popen(
        [*command, "--address", head.url], cwd=ROOT, env=head.environment, stdout=-1, stderr=-2, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    assert following.stdout is not None
    for line in following.stdout:
        if "Running entrypoint" in line:
            break
    following.send_signal(signal.SIGINT)
    said = following.stdout.read()
    assert following.wait() == 130, said
    assert "still runs" in said and "Traceback" not in said
    job = said.split("No longer following. Job ")[1].split(" ")[0]
    status = head.run(str(BIN / "ray"), "job", "status", "--address", head.url, job)
    assert "RUNNING" in status.stdout + status.stderr
    assert head.run(str(BIN / "ray"), "job", "stop", "--address", head.url, job).returncode == 0


@pytest.mark.cluster
def test_what_the_user_can_mend(head: Head, tmp_path: Path) -> None:
    def fails(*arguments: str, **changes: str | None) -> str:
        done = head.run(sys.executable, "-m", "semtag", *arguments, **changes)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert head.environment["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr
        return done.stderr

    there = ["submit", *tiny_demo(tmp_path), "--address"]
    assert "refused the token" in fails(*there, head.url, RAY_AUTH_TOKEN="0" * 64)
    nothing = {"RAY_AUTH_TOKEN": None, "HOME": str(tmp_path)}
    assert "asks for a token, and none was given" in fails(*there, head.url, **nothing)
    assert "asks for a token, and none was given" in fails(*there, head.url, RAY_AUTH_MODE=None, **nothing)
    assert "No Ray cluster answers at http://127.0.0.1:1" in fails(*there, "http://127.0.0.1:1")
    assert "is not the address of a Ray dashboard" in fails(*there, "127.0.0.1:8265")
    wide = ["sampling.gpus_per_actor=1", "sampling.tensor_parallel=4"]
    plan = ["run", *tiny_demo(tmp_path, f"cluster.address={head.gcs}", *wide), "--dry-run"]
    assert "A sampling actor takes 4 GPUs of one node, and no node of the cluster" in fails(*plan)
    assert not (tmp_path / "demo").exists()


def test_nothing_is_sent_that_could_not_work(tmp_path: Path) -> None:
    def fails(config: Path, *overrides: str, working_dir: Path = ROOT) -> str:
        with pytest.raises(UserError) as caught:
            entrypoint(str(config), list(overrides), "run", working_dir)
        return str(caught.value)

    demo, root = ROOT / "configs" / "demo.yaml", f"run.root={tmp_path}"
    assert "No config file" in fails(tmp_path / "none.yaml", root)
    assert "Did you mean training.beta?" in fails(demo, root, "training.betta=1")
    assert "run.root=runs would be lost" in fails(demo)
    assert "would not be sent" in fails(demo, root, working_dir=ROOT / "cluster")
    assert "does not exist" in fails(demo, root, working_dir=tmp_path / "none")
    (tmp_path / "runs" / "old").mkdir(parents=True)
    shutil.copy(demo, tmp_path / "runs" / "old" / "config.yaml")
    assert "would not be sent" in fails(tmp_path / "runs" / "old" / "config.yaml", root, working_dir=tmp_path)


def test_the_job_s_command() -> None:
    command = entrypoint(str(ROOT / "configs" / "demo.yaml"), ["run.root=/mnt/my runs"], "rank", ROOT)
    assert command == "python -m semtag rank configs/demo.yaml cluster.address=auto 'run.root=/mnt/my runs'"
    shipped = entrypoint("demo", ["run.root=/mnt/runs"], "run", ROOT)
    assert shipped == "python -m semtag run demo cluster.address=auto run.root=/mnt/runs"


# What people keep in a checkout, beside the code of a job.
SECRET = [
    "object-store.env", ".env", ".env.local", ".envrc", "deep/cluster.pem", "ssh.key", "auth_token", "deep/token",
    "id_ed25519", "id_rsa.pub", "credentials.json", ".netrc", ".aws/config", ".kube/config", "cert.p12",
]  # fmt: skip
USELESS = [".git/config", ".venv/bin/python", "venv/bin/python", "runs/demo/x", "deep/__pycache__/x.pyc", "ignored"]


def checkout(folder: Path) -> Path:
    """A folder of a config and code, and of all that is never sent."""
    for name in ["configs/demo.yaml", "generation/prompts.py", "deep/environment.py", *SECRET, *USELESS]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret" * 200)
    shutil.copy(ROOT / "configs" / "demo.yaml", folder / "configs" / "demo.yaml")
    (folder / ".gitignore").write_text("/ignored\n")
    return folder


def test_no_secret_of_the_checkout_is_sent(tmp_path: Path) -> None:
    assert sent(checkout(tmp_path)).keys() == {
        ".gitignore", "configs/demo.yaml", "generation/prompts.py", "deep/environment.py",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["venv/demo.yaml", ".env.yaml", "ignored.d/demo.yaml"])
def test_a_config_that_would_stay_behind_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("/ignored.d\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / "configs" / "demo.yaml", tmp_path / name)
    with pytest.raises(UserError, match="would not be sent"):
        entrypoint(str(tmp_path / name), ["run.root=/mnt/runs"], "run", tmp_path)


def test_what_is_sent_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say_what_is_sent(checkout(tmp_path), "http://127.0.0.1:8265")
    said = capsys.readouterr()
    size = sum((tmp_path / name).stat().st_size for name in sent(tmp_path))
    assert f"Sends 4 files, {size / 2**20:.1f} MiB, of {tmp_path}: .gitignore, configs, deep, generation" in said.out
    assert said.err == ""
    say_what_is_sent(tmp_path, "http://head.example:8265")
    assert "warning: http://head.example:8265 is not encrypted" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["http://user:secret@host:8265", "host:8265"])
def test_what_is_no_address_of_a_dashboard_is_named(address: str) -> None:
    with pytest.raises(UserError, match="is not the address of a Ray dashboard") as caught:
        _connect(address)
    assert "secret" not in str(caught.value)
