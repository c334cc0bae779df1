"""The program: its global options, its commands, and what becomes of errors."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from hybridprompt import __version__
from hybridprompt.cli import common
from hybridprompt.cli.decode import decode
from hybridprompt.cli.encode import encode, enhance
from hybridprompt.cli.evaluate import evaluate
from hybridprompt.cli.inspect import inspect
from hybridprompt.cli.train import corpus, export, pack_corpus, train, unpack_corpus
from hybridprompt.errors import HybridPromptError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

app = typer.Typer(
    name=common.PROGRAM,
    help="AV1 video with generated keyframes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    encode,
    enhance,
    decode,
    inspect,
    evaluate,
    corpus,
    pack_corpus,
    unpack_corpus,
    train,
    export,
):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"{common.PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show details, and tracebacks of errors.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    common.options.debug, common.options.quiet = debug, quiet
    common.set_up_logging()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status.

    0: done. 1: an error, told in one line on standard error. 2: wrong usage. 130, 143: interrupted.
    """
    common.options.debug = common.options.quiet = False
    _end_cleanly_when_terminated()
    try:
        app(arguments if arguments is None else list(arguments))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else EXIT_ERROR
        return _flushed(0 if end.code is None else status)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except HybridPromptError as error:
        if common.options.debug:
            common.messages.print_exception()
        if not _reader_has_gone(error):
            _say_error(str(error))
        return _flushed(EXIT_ERROR)
    except OSError as error:
        if common.options.debug:
            common.messages.print_exception()
        if not _reader_has_gone(error):
            _say_error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return _flushed(EXIT_ERROR)
    except Exception as error:
        if common.options.debug:
            common.messages.print_exception()
        hint = "" if common.options.debug else f" (run {common.PROGRAM} --debug ... for the traceback)"
        _say_error(f"unexpected {type(error).__name__}: {error}{hint}")
        return _flushed(EXIT_ERROR)
    return _flushed(0)


def _say_error(text: str) -> None:
    common.say(f"[red]error:[/] {escape(' '.join(text.split()))}")


def _reader_has_gone(error: BaseException) -> bool:
    """Say whether the program at the other end of a pipe has ended: not worth a word."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, BrokenPipeError):
        cause = cause.__cause__
    return cause is not None


def _flushed(status: int) -> int:
    """Flush standard output now: Python would complain about a reader who has gone, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not _reader_has_gone(error):
            _say_error(f"standard output: {error.strerror}")
        return status or EXIT_ERROR
    return status


def _end_cleanly_when_terminated() -> None:
    """Let SIGTERM unwind the stack, so that no half-written file stays."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(EXIT_TERMINATED)

    try:
        signal.signal(signal.SIGTERM, end)
    except ValueError:
        # Only the main thread may; elsewhere the program that called us decides.
        return
