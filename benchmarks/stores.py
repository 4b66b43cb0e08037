"""An S3 server on loopback, which can hold a job's request at a step of a commit."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec

# Ray commits a block in four requests: its ids as pending ones, its rows, a copy of the ids to their committed name,
# and the removal of the pending ones.
PENDING, ROWS, COPIED, REMOVING = STEPS = (
    "commit: ids pending",
    "commit: rows written",
    "commit: ids copied",
    "commit: before the delete",
)
PATIENCE = 60.0  # seconds that a request is held for at most

Environment = dict[str, Any]
Answer = Iterable[bytes]


class Store:
    """moto's server in a thread of this process; what it holds outlives its stops."""

    def __init__(self) -> None:
        self.held = threading.Event()  # a request is being held
        self._wished, self._dropped, self._let_go = "", False, threading.Event()
        self._port = 0
        self.start()

    def start(self) -> None:
        """Start the server, after a stop at the same address."""
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line a request
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", self._port, self._answer, threaded=True, request_handler=MotoRequestHandler
        )
        self._port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the server; nothing answers at its address."""
        self._server.shutdown()
        self._thread.join()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._port}"

    def hold(self, step: str) -> None:
        """Hold the next request that takes one of STEPS, until `let_go`: its work is done, but for REMOVING."""
        self.held.clear()
        self._let_go.clear()
        self._wished = step

    def let_go(self, drop: bool = False) -> None:
        """Hold no request any more. One that was held before its work can be dropped undone."""
        self._wished, self._dropped = "", drop
        self._let_go.set()

    def _answer(self, environment: Environment, start_response: Callable[..., Any]) -> Answer:
        step = step_of(environment)
        if step == REMOVING and self._is_dropped(step):
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        answer: Answer = self._app(environment, start_response)
        if step != REMOVING:
            self._is_dropped(step)
        return answer

    def _is_dropped(self, step: str | None) -> bool:
        """Hold a request of the wished step; returns whether it is dropped."""
        if not step or step != self._wished:
            return False
        self.held.set()
        self._let_go.wait(PATIENCE)
        return self._dropped


def step_of(environment: Environment) -> str | None:
    """Which of STEPS a request to the server takes, if any."""
    path, method, query = (environment[name] for name in ("PATH_INFO", "REQUEST_METHOD", "QUERY_STRING"))
    if "/.rank.unfinished/" not in path or not path.endswith(".parquet"):
        return None
    pending = path.endswith(".pending.parquet")
    if method == "DELETE":
        return REMOVING if pending and "uploadId" not in query else None
    if "HTTP_X_AMZ_COPY_SOURCE" in environment:
        return COPIED
    # A file is written by one request, or by several of which this is the last one.
    whole = "uploadId" not in query if method == "PUT" else method == "POST" and "uploadId" in query
    return (PENDING if pending else ROWS if "/rows/" in path else None) if whole else None


@contextlib.contextmanager
def store_on_loopback(bucket: str, cache: Path) -> Iterator[Store]:
    """A store with a bucket, to which the environment leads while the block runs.

    The parts of its runs that stay on this machine lie in the folder `cache`.
    """
    store, before = Store(), os.environ.copy()
    os.environ |= {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(cache.absolute()),
    }
    client = fsspec.filesystem("s3", skip_instance_cache=True)
    client.clear_instance_cache()  # clients of an earlier store
    if not client.exists(bucket):  # moto keeps the buckets of an earlier store of this process
        client.mkdir(bucket)
    try:
        yield store
    finally:
        os.environ.clear()
        os.environ |= before
        with contextlib.suppress(Exception):
            store.stop()
