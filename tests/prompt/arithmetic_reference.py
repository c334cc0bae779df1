"""The arithmetic code of docs/bitstream.md, decoded by integers alone, as that page says it."""


class Reference:
    """Decodes bits; contexts: how many there are."""

    def __init__(self, data: bytes, contexts: int) -> None:
        self.data = data
        self.at = 0
        self.low, self.range = 0, (1 << 64) - 1
        self.point = self.word() << 32 | self.word()
        self.counts = [[2, 2] for _ in range(contexts)]

    def word(self) -> int:
        self.at += 4
        return int.from_bytes(self.data[self.at - 4 : self.at].ljust(4, b"\0"), "big")

    def bit(self, context: int) -> int:
        zeros, ones = self.counts[context]
        p = min(max(ones * 65536 // (zeros + ones), 64), 65472)
        of_zero = ((65536 - p) * ((1 << 24) - 2) >> 16) + 1
        step = self.range >> 24
        bit = int((self.point - self.low) % (1 << 64) // step >= of_zero)
        self.low = (self.low + step * of_zero * bit) % (1 << 64)
        self.range = step * ((1 << 24) - of_zero if bit else of_zero)
        if self.range < 1 << 32:
            self.low = self.low << 32 & (1 << 64) - 1
            self.range <<= 32
            self.point = (self.point << 32 | self.word()) & (1 << 64) - 1
        self.counts[context][bit] += 4
        if zeros + ones + 4 > 400:
            self.counts[context] = [(count + 1) // 2 for count in self.counts[context]]
        return bit
