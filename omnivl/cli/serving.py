"""serve: the HTTP API and the search page of an index."""

import argparse
import os
from typing import Any

from omnivl.cli.common import new_command, plain_warnings
from omnivl.cli.searching import add_index


def add_commands(commands: Any) -> None:
    made = new_command(commands, "serve", serve, "a search page, and JSON over HTTP, for an index")
    made.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)"
    )
    made.add_argument("--port", type=int, default=8080, help="default: 8080; 0: any that is free")
    made.add_argument("--token", help="what clients must send (default: OMNIVL_TOKEN, else nothing)")
    add_index(made)


def serve(options: argparse.Namespace) -> int:
    try:
        from omnivl.inference.server.app import serve as run
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "python_multipart", "starlette", "pydantic"):
            raise
        raise ModuleNotFoundError('serving needs FastAPI: pip install "omnivl[serve]"') from None
    from omnivl.inference.media_index import MediaIndex

    plain_warnings()
    index = MediaIndex.open(options.index, options.model, device=options.device)
    run(index, options.host, options.port, options.token or os.environ.get("OMNIVL_TOKEN"))
    return 0
