"""Start the web app: read flags, build the page, serve it. `python app.py --help` lists the flags."""

from __future__ import annotations

import argparse
import logging
import os
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_RUN_HISTORY", "False")  # instructions and answers are not kept in the browser


def main() -> int:
    on_space = "SPACE_ID" in os.environ
    parser = argparse.ArgumentParser(description="gistdemo: full, gist and truncated prompts side by side, in the browser.")
    parser.add_argument("--host", default="0.0.0.0" if on_space else "127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port (default: %(default)s)")
    parser.add_argument(
        "--data", default="embedded", help="examples to open with: .json, .jsonl, .parquet or a hub dataset id (default: the embedded set)"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)

    from gistdemo.errors import GistDemoError, one_line
    from gistdemo.memory import keep_freed_memory
    from gistdemo.settings import Settings
    from gistdemo.ui.build import build_app

    keep_freed_memory()
    try:
        page, arguments = build_app(Settings.from_env(), args.data, local=args.host in ("127.0.0.1", "localhost", "::1"))
        page.launch(server_name=args.host, server_port=args.port, ssr_mode=False, show_error=False, **arguments)
    except GistDemoError as error:
        print(f"gistdemo: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gistdemo: cannot listen on {args.host}:{args.port} ({error}). Choose another port with --port.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
