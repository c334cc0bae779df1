"""The command line: parse, call, show. Each command has its module; what they share is in `common`."""

from hybridprompt.cli.app import app, main

__all__ = ["app", "main"]
