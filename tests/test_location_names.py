"""What a place may be called, what of a name is never shown, and files of a store that are fetched to this machine."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from upath import UPath

from semtag.cli import main
from semtag.cluster.ray_session import _check_answers
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.store.locations import _fetched, place_at, socket_folder
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT

DEMO = ROOT / "configs" / "demo.yaml"


def in_memory(name: str, *keys: str) -> UPath:
    """A folder of a store in this process, with objects whose keys stand as they are given."""
    folder = UPath(f"memory://{name}")
    for key in keys:
        folder.fs.store[f"/{name}/{key}"] = MemoryFile(folder.fs, f"/{name}/{key}", b"what it holds")
    return folder


@pytest.mark.parametrize("key", ["../../../../evil", "a/../../../evil", "/evil", "deep/../../../../../../evil"])
def test_a_key_that_climbs_out_of_its_folder_is_refused(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a" / "b" / "c" / "cache"))
    with pytest.raises(UserError, match="evil"):
        _fetched(in_memory("climbing/model", "config.json", key))
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not Path("/evil").exists()


def test_what_eight_actors_ask_for_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source, fetched, get_file = in_memory("once/model", "a", "deep/b"), list[str](), MemoryFileSystem.get_file

    def counted(self: MemoryFileSystem, path: str, *rest: Any, **options: Any) -> None:
        fetched.append(path)
        time.sleep(0.1)  # the others come meanwhile
        get_file(self, path, *rest, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    with ThreadPoolExecutor(8) as actors:
        copies = list(actors.map(_fetched, [source] * 8))
    assert len(set(copies)) == 1
    assert sorted(fetched) == ["/once/model/a", "/once/model/deep/b"]
    assert (copies[0] / "deep" / "b").read_bytes() == b"what it holds"


def test_what_a_killed_process_fetched_half_is_fetched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = in_memory("half/model", "a", "b")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        _fetched(source)
    source.fs.rm_file("/half/model/b")
    assert [file.name for file in _fetched(source).iterdir()] == ["a"]


FOREIGN = [
    "memory://runs",
    "http://169.254.169.254/latest/meta-data",
    "https://example.org/texts.jsonl",
    "simplecache::s3://bucket/runs",
    "github://owner:name@main/",
    "az://container/runs",
    "s3a://bucket/runs",
    "file://host/runs",
    "S3://bucket/runs",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_places_that_no_client_of_ours_reaches_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="s3://"):
        place_at(name)
    with pytest.raises(UserError, match="s3://"):
        RunDir(name)
    with pytest.raises(UserError, match="s3://"):
        load_config(name)
    for key in ("run.root", "data.path", "model.base", "scoring.model", "prompt.examples"):
        with pytest.raises(UserError, match=f"{key}.*s3://"):
            load_config(DEMO, [f"{key}={name}"])


def test_a_run_lives_on_a_disk_or_in_a_bucket() -> None:
    with pytest.raises(UserError, match=r"run\.root.*s3://BUCKET"):
        load_config(DEMO, ["run.root=hf://datasets/owner/name"])
    assert load_config(DEMO, ["data.path=hf://datasets/owner/name"]).data.path == "hf://datasets/owner/name"


def test_a_file_by_its_url_is_a_path(tmp_path: Path) -> None:
    assert place_at(f"file://{tmp_path}/a #b") == tmp_path / "a #b"
    config = load_config(DEMO, [f"run.root=file://{tmp_path}", f"data.path=file://{tmp_path}/a #b"])
    assert (config.run.root, config.data.path) == (str(tmp_path), f"{tmp_path}/a #b")
    assert load_config(f"file://{DEMO}") == load_config(DEMO)


SECRETS = ["s3://key:secret@bucket/x", "s3://key:se/secret@bucket", "gs://bucket/x?token=secret", "http://u:secret@h/x"]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("key", ["run.root", "data.path", "model.base", "scoring.model", "prompt.examples"])
def test_a_secret_in_a_key_is_refused_and_not_shown(key: str, name: str) -> None:
    with pytest.raises(UserError, match=r"come from the environment|s3://") as caught:
        load_config(DEMO, [f"{key}={name}"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "command", ["verify", "report", "judge", "tag", "tag a model", "out", "submit", "rank", "a word"]
)
def test_a_secret_in_a_name_is_refused_and_not_shown(
    command: str, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    run.start(load_config(DEMO))
    out = ["--out", str(tmp_path / "out.jsonl")]
    arguments = {
        "tag": ["tag", str(run.path), "--base", "--data", name, *out],
        "tag a model": ["tag", name, "--data", "x.jsonl", *out],
        "out": ["tag", str(run.path), "--base", "--data", "x.jsonl", "--out", f"{name}.jsonl"],
        "submit": ["submit", str(DEMO), "--address", "http://127.0.0.1:1", "--working-dir", name, "run.root=/runs"],
        "a word": ["rank", str(DEMO), "=", name],
    }
    assert main(arguments.get(command, [command, name])) == 2
    said = "".join(capfd.readouterr())
    assert "secret" not in said
    assert "Traceback" not in said
    assert said.startswith("error: ")


def test_an_address_of_another_kind_is_named() -> None:
    with pytest.raises(UserError, match="Write HOST:PORT"):
        _check_answers("ray://127.0.0.1:10001")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IP version 6 here")
def test_an_address_of_ip_version_6_is_asked() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        _check_answers(f"[::1]:{server.getsockname()[1]}")


def test_sockets_lie_where_their_names_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, expected in (("/var/tmp", "/var/tmp"), (str(tmp_path / ("x" * 80)), "/tmp")):
        Path(folder).mkdir(exist_ok=True)
        monkeypatch.setattr("tempfile.tempdir", folder)
        assert socket_folder() == expected
    monkeypatch.setattr("os.access", lambda *arguments: False)
    with pytest.raises(UserError, match="Set TMPDIR"):
        socket_folder()
