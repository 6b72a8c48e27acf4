"""`gistdemo app`: build the page and serve it."""

from __future__ import annotations

import argparse
import logging
import os

from gistdemo.cli.output import Commands
from gistdemo.errors import UsageError
from gistdemo.settings import Settings

OWN_HOSTS = ("127.0.0.1", "localhost", "::1")


def add(commands: Commands) -> None:
    p = commands.add_parser("app", help="start the web app: full, gist and truncated prompts side by side, in the browser")
    on_space = "SPACE_ID" in os.environ
    p.add_argument("--host", default="0.0.0.0" if on_space else OWN_HOSTS[0], help="address to listen on (default: %(default)s)")
    p.add_argument("--port", type=int, default=7860, help="port (default: %(default)s)")
    p.add_argument(
        "--data", default="embedded", help="examples to open with: .json, .jsonl, .parquet or a hub dataset id (default: the embedded set)"
    )
    p.set_defaults(command=_app, log_level=logging.INFO)


def _app(args: argparse.Namespace, settings: Settings) -> int:
    # read by gradio on import: nothing is reported, and instructions and answers are not kept in the browser
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from gistdemo.memory import keep_freed_memory
    from gistdemo.ui.build import build_app

    keep_freed_memory()
    page, arguments = build_app(settings, args.data, local=args.host in OWN_HOSTS)
    try:
        page.launch(server_name=args.host, server_port=args.port, ssr_mode=False, show_error=False, **arguments)
    except OSError as error:
        raise UsageError(f"cannot listen on {args.host}:{args.port} ({error}). Choose another port with --port.") from error
    return 0
