"""``python -m pibot``, and the ``pibot`` command."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130


def run() -> None:
    """Run the command line of this process."""
    # Loading the program takes a while, and Ctrl-C in the middle of an import would print its frames.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # else it is ignored, as in a script's background
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))

    from pibot.cli import main

    signal.signal(signal.SIGINT, handler)
    try:
        main(prog_name="pibot")
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    run()
