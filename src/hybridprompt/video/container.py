"""Packets in files, under one name: `PacketReader`, `Mp4Writer`, `copy_with`."""

from hybridprompt.video.mp4_writer import Mp4Writer
from hybridprompt.video.packet_reader import MAX_GOP_BYTES, MAX_GOP_PACKETS, GopPackets, PacketReader
from hybridprompt.video.remux import copy_with

__all__ = ["MAX_GOP_BYTES", "MAX_GOP_PACKETS", "GopPackets", "Mp4Writer", "PacketReader", "copy_with"]
