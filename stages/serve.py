"""Serve the exported model over HTTP.

    python -m stages.serve
    curl -F file=@photo.jpg http://127.0.0.1:8000/predict

http://127.0.0.1:8000/docs tells what else there is. On SIGTERM requests that were accepted are
answered; new ones are told to go elsewhere meanwhile.
"""

import argparse
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.arguments import Parser, count
from stages.errors import UserError, run
from stages.files import EXPORT
from stages.serving.settings import SHARED, Settings
from stages.store.exported import FILES, read_exported

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# The first that is there is served unless --model names one: the fastest whose answers are those
# that evaluate judged, which rules out float16 and int8 where there are others.
MODELS = tuple(FILES.values())

SHARED_MEMORY = Path("/dev/shm")

LIMITS = {
    "request_bytes": "bytes of a request",
    "held_bytes": "bytes of all requests that a worker holds at a time",
    "pixels": "pixels of an image",
    "images": "images of a request",
    "queue": "images that wait for a worker, beyond which clients are told to try again",
    "seconds": "seconds for a request, from its headers to the answer",
    "idle": "seconds for the headers of a request, or for the next one on a connection",
    "connections": "connections to a worker",
}


def main() -> int:
    options = _options()
    settings = Settings(
        model=options.model or _default_model(),
        threads=options.threads or max(1, len(os.sched_getaffinity(0)) // options.workers),
        **{name: getattr(options, name) for name in LIMITS},
    )
    read_exported(settings.model)  # tells mistakes before anything is started
    try:
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError(
            "the service needs packages that are not installed: run make export"
        ) from None
    opened = _listen(options.host, options.port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # after uvicorn has drained
    try:
        return _serve(settings, opened, options.workers)
    except KeyboardInterrupt:
        return 0


def app_of(settings: Settings) -> "ASGIApp":
    """The service in a process that uvicorn started."""
    from stages.serving.app import create_app

    try:
        return create_app(settings)
    except UserError as error:
        from uvicorn.config import STARTUP_FAILURE

        print(f"error: {error}", file=sys.stderr)
        sys.exit(STARTUP_FAILURE)


def _serve(settings: Settings, opened: socket.socket, workers: int) -> int:
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    from stages.serving.http import LOGGING, Protocol

    host, port = opened.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if workers == 1:
        from stages.serving.app import create_app

        app: Any = create_app(settings)
    else:
        app = partial(app_of, settings)
    config = uvicorn.Config(
        app,
        factory=workers > 1,
        interface="asgi3",
        http=Protocol,
        ws="none",
        lifespan="on",
        workers=workers,
        log_config=LOGGING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections,
        timeout_keep_alive=math.ceil(settings.idle),
        timeout_graceful_shutdown=math.ceil(settings.seconds) + 1,
        timeout_worker_healthcheck=10,
    )
    print(f"{settings.model} at {address}, what it answers at {address}/docs", file=sys.stderr)
    if workers == 1:
        uvicorn.Server(config).run([opened])
        return 0
    shared = tempfile.mkdtemp(prefix="serve", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
    os.environ[SHARED] = shared  # before prometheus_client is imported
    try:
        processes = Multiprocess(config, [opened])
        processes.run()
        return int(any(one.exitcode == STARTUP_FAILURE for one in processes.processes))
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def _default_model() -> Path:
    for name in MODELS:
        if (EXPORT / name).exists():
            return EXPORT / name
    raise UserError(f"there is no model in {EXPORT}; dvc repro makes one, or name it with --model")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        opened = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host} port {port}: {_reason(error)}; take another --port"
        ) from None
    opened.set_inheritable(True)
    return opened


def _reason(error: OSError) -> str:
    """What the system says; asyncio and socket say the address again, in their own words."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)


def _options() -> argparse.Namespace:
    def seconds(value: str) -> float:
        try:
            if 0 < float(value) < 1e6:
                return float(value)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{value} is no number of seconds above 0")

    def port(value: str) -> int:
        if not value.isdecimal() or int(value) > 65535:
            raise argparse.ArgumentTypeError(f"{value} is no port, 0 to 65535")
        return int(value)

    parser = Parser("serve", __doc__)
    parser.add_argument(
        "--model", type=Path, help=f"default: the first in {EXPORT} of {', '.join(MODELS)}"
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s, this machine")
    parser.add_argument("--port", type=port, default=8000, help="default: %(default)s")
    parser.add_argument("--workers", type=count, default=1, help="processes, default: %(default)s")
    parser.add_argument(
        "--threads", type=count, help="of a worker, default: one for each core, among the workers"
    )
    limits = parser.add_argument_group("limits")
    for field in fields(Settings):
        if field.name in LIMITS:
            limits.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=seconds if isinstance(field.default, float) or field.type is float else count,
                default=field.default,
                metavar="N",
                help=f"{LIMITS[field.name]}, default: %(default)s",
            )
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
