"""Bringing HDR and wide-gamut frames into BT.709."""

from fractions import Fraction

import av
from av.filter import Graph

from hybridprompt.video.picture import color_of_frame


class ToneMapper:
    """Maps HDR and BT.2020 frames to 8-bit BT.709 with swscale's perceptual color management.

    Building its table takes 2 to 10 s of the first picture (then 50 ms each at 1080p), so one instance serves
    a whole sequence.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._key: tuple[object, ...] = ()

    def map(self, frame: av.VideoFrame) -> av.VideoFrame:
        color = color_of_frame(frame)
        key = (frame.width, frame.height, frame.format.name, color)
        if self._graph is None or self._key != key:
            self._graph, self._key = self._build(frame), key
        pts, time_base = frame.pts, frame.time_base
        frame.pts = 0
        frame.colorspace, frame.color_primaries, frame.color_trc = (
            color.matrix,
            color.primaries,
            color.transfer,
        )
        self._graph.push(frame)
        mapped = self._graph.pull()
        assert isinstance(mapped, av.VideoFrame)
        frame.pts = mapped.pts = pts
        mapped.time_base = time_base
        return mapped

    @staticmethod
    def _build(frame: av.VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 90000)
        )
        target = "out_color_matrix=bt709:out_primaries=bt709:out_transfer=bt709:out_range=tv"
        scale = graph.add("scale", f"{target}:intent=perceptual")
        pixel_format = graph.add("format", "yuv420p")
        sink = graph.add("buffersink")
        source.link_to(scale)
        scale.link_to(pixel_format)
        pixel_format.link_to(sink)
        graph.configure()
        return graph
