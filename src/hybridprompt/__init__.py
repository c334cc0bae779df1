"""HybridPrompt: AV1 video with generated keyframes.

    with hybridprompt.open("film.mp4") as video:
        for picture in video:
            ...

What is here is imported when it is first used, so that `import hybridprompt` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from hybridprompt._version import __version__
from hybridprompt.errors import (
    BitstreamError,
    CodecError,
    ConfigError,
    GeneratorError,
    HybridPromptError,
    MediaError,
)

if TYPE_CHECKING:
    from hybridprompt.decode.inspect import FileReport, inspect_file
    from hybridprompt.decode.video_file import DecodedPicture, VideoFile
    from hybridprompt.decode.video_file import VideoFile as open
    from hybridprompt.decode.warnings import DecodeWarning
    from hybridprompt.encode.enhance import enhance_file
    from hybridprompt.encode.pipeline import encode_file
    from hybridprompt.encode.progress import EncodeSummary
    from hybridprompt.encode.settings import EncodeSettings

__all__ = [
    "BitstreamError",
    "CodecError",
    "ConfigError",
    "DecodeWarning",
    "DecodedPicture",
    "EncodeSettings",
    "EncodeSummary",
    "FileReport",
    "GeneratorError",
    "HybridPromptError",
    "MediaError",
    "VideoFile",
    "__version__",
    "encode_file",
    "enhance_file",
    "inspect_file",
    "open",
]

_LAZY = {
    "DecodeWarning": ("hybridprompt.decode.warnings", "DecodeWarning"),
    "DecodedPicture": ("hybridprompt.decode.video_file", "DecodedPicture"),
    "EncodeSettings": ("hybridprompt.encode.settings", "EncodeSettings"),
    "EncodeSummary": ("hybridprompt.encode.progress", "EncodeSummary"),
    "FileReport": ("hybridprompt.decode.inspect", "FileReport"),
    "VideoFile": ("hybridprompt.decode.video_file", "VideoFile"),
    "encode_file": ("hybridprompt.encode.pipeline", "encode_file"),
    "enhance_file": ("hybridprompt.encode.enhance", "enhance_file"),
    "inspect_file": ("hybridprompt.decode.inspect", "inspect_file"),
    "open": ("hybridprompt.decode.video_file", "VideoFile"),
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
