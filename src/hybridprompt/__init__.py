"""HybridPrompt: AV1 video with generated keyframes."""

from hybridprompt._version import __version__

__all__ = ["__version__"]
