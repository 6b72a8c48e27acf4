"""Start the web app from a checkout, as a Space does: the same as `python -m gistdemo app`. `python app.py --help` lists the flags."""

from __future__ import annotations

import sys


def main() -> int:
    from gistdemo.cli import main as run

    return run(["app", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
