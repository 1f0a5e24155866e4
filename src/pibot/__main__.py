"""``python -m pibot``."""

from __future__ import annotations

from pibot.cli import main

if __name__ == "__main__":
    main(prog_name="pibot")
