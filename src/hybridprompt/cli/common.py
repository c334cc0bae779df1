"""What all commands share: where messages go, and the options of the program itself."""

import logging
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PROGRAM: Final = "hybridprompt"

# Standard output is for results only; whatever is said about them goes here.
messages = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass
class GlobalOptions:
    """Options before the command's name."""

    debug: bool = False
    quiet: bool = False


options = GlobalOptions()


class MessageHandler(logging.Handler):
    """Shows log records as lines on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        color = "red" if record.levelno >= logging.ERROR else "yellow"
        say(f"[{color}]{level}:[/] {escape(record.getMessage())}")


def say(markup: str) -> None:
    """Show one line, marked up for Rich, on standard error."""
    messages.print(f"{PROGRAM}: {markup}")


def report(text: str) -> None:
    """Show one line on standard error unless --quiet was given."""
    if not options.quiet:
        say(escape(text))


def set_up_logging() -> None:
    """Send the package's warnings to standard error; with --debug everything."""
    logger = logging.getLogger(PROGRAM)
    for handler in [h for h in logger.handlers if isinstance(h, MessageHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(MessageHandler())
    level = logging.DEBUG if options.debug else logging.ERROR if options.quiet else logging.WARNING
    logger.setLevel(level)


def progress_bar() -> Progress:
    """Return a progress bar for pictures; it shows only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} pictures, {task.speed:.0f}/s", justify="right"),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
        disable=options.quiet or not messages.is_terminal,
    )
