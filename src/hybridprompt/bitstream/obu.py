"""AV1 open bitstream units: framing, metadata, and the headers of sequences and frames.

The public names of the modules that read AV1. Everything works on a *temporal unit*: bytes in, values out.
"""

from hybridprompt.bitstream.frame_header import FrameHeader, FrameType, HeaderTracker
from hybridprompt.bitstream.framing import Obu, ObuType, iterate_obus
from hybridprompt.bitstream.metadata import insert_metadata, metadata_payloads, strip_metadata
from hybridprompt.bitstream.sequence_header import (
    ColorConfig,
    OperatingPoint,
    SequenceHeader,
    TimingInfo,
    parse_sequence_header,
)

__all__ = [
    "ColorConfig",
    "FrameHeader",
    "FrameType",
    "HeaderTracker",
    "Obu",
    "ObuType",
    "OperatingPoint",
    "SequenceHeader",
    "TimingInfo",
    "insert_metadata",
    "iterate_obus",
    "metadata_payloads",
    "parse_sequence_header",
    "strip_metadata",
]
