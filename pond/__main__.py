"""The `pond` command, also as `python -m pond`: an interrupt ends it in one line, from its first moment to its last."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line."""
    heeds_interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not in a shell's background
    if heeds_interrupts:
        signal.signal(signal.SIGINT, _end)
    from pond.cli.main import main as command  # takes a tenth of a second, in which there is nothing to clear up

    if heeds_interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command(prog_name="pond")
    except KeyboardInterrupt:  # a second one, before the command had told of the first
        _end(signal.SIGINT, None)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"pond: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
