"""Every error this package raises on purpose.

HybridPromptError
├── BitstreamError    bytes that break the syntax of a codec or of a prompt
├── MediaError        a file or container that cannot be read or written
├── CodecError        an encoder or decoder that refuses its input
├── GeneratorError    a generator that is missing, damaged or unfit for the picture
└── ConfigError       settings that make no sense together, or a missing extra

Messages say what was found, what was expected, and where (file, GOP, byte offset).
"""


class HybridPromptError(Exception):
    """Base of all errors raised on purpose."""


class BitstreamError(HybridPromptError):
    """Bytes that break the syntax of a codec or of a prompt."""


class MediaError(HybridPromptError):
    """A file or container that cannot be read or written."""


class CodecError(HybridPromptError):
    """An encoder or decoder that refuses its input."""


class GeneratorError(HybridPromptError):
    """A generator that is missing, damaged or unfit for the picture."""


class ConfigError(HybridPromptError):
    """Settings that make no sense together, or an extra that is not installed."""
