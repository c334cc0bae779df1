"""Read and write the bit-level descriptors of AV1 (AV1 4.10): f(n), uvlc(), leb128(), ns(n)."""

from hybridprompt.errors import BitstreamError

LEB128_MAX_BYTES = 8
LEB128_MAX_VALUE = (1 << 32) - 1


class BitReader:
    """Take values from `data`, most significant bit first.

    Every method raises `BitstreamError` instead of reading past the end; the position is then unchanged or
    lies within the value that was cut off.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._size_bits = 8 * len(data)
        self._position = 0

    @property
    def position(self) -> int:
        """Bits read so far."""
        return self._position

    @property
    def remaining(self) -> int:
        """Bits not read yet."""
        return self._size_bits - self._position

    def f(self, n: int) -> int:
        """Read an unsigned number of `n` bits (AV1 4.10.2)."""
        end = self._position + n
        if end > self._size_bits:
            raise BitstreamError(
                f"needed {n} bits at bit {self._position}, found {self.remaining} of {self._size_bits} left"
            )
        first, last = self._position >> 3, (end + 7) >> 3
        value = int.from_bytes(self._data[first:last], "big") >> (8 * last - end)
        self._position = end
        return value & ((1 << n) - 1)

    def flag(self) -> bool:
        """Read one bit as a truth value."""
        return self.f(1) == 1

    def uvlc(self) -> int:
        """Read a variable-length unsigned number (AV1 4.10.3); 32 or more leading zeros mean 2^32 - 1."""
        leading_zeros = 0
        while not self.flag():
            leading_zeros += 1
        if leading_zeros >= 32:
            return LEB128_MAX_VALUE
        return self.f(leading_zeros) + (1 << leading_zeros) - 1

    def leb128(self, *, max_bytes: int = LEB128_MAX_BYTES) -> int:
        """Read a little-endian base-128 number of at most `max_bytes` bytes and 32 bits (AV1 4.10.5)."""
        start = self._position
        value = 0
        for i in range(max_bytes):
            byte = self.f(8)
            value |= (byte & 0x7F) << (7 * i)
            if not byte & 0x80:
                break
        else:
            raise BitstreamError(f"leb128 at bit {start} is longer than {max_bytes} bytes")
        if value > LEB128_MAX_VALUE:
            raise BitstreamError(f"leb128 at bit {start} is {value}, more than {LEB128_MAX_VALUE}")
        return value

    def ns(self, n: int) -> int:
        """Read a number in [0, n), non-symmetrically coded (AV1 4.10.7)."""
        width = n.bit_length()
        short_codes = (1 << width) - n
        value = self.f(width - 1)
        if value < short_codes:
            return value
        return (value << 1) - short_codes + self.f(1)


class BitWriter:
    """Collect values, most significant bit first: the inverse of `BitReader`."""

    def __init__(self) -> None:
        self._value = 0
        self._position = 0

    @property
    def position(self) -> int:
        """Bits written so far."""
        return self._position

    def f(self, n: int, value: int) -> None:
        """Write `value` in `n` bits; raise `ValueError` where it does not fit."""
        if not 0 <= value < 1 << n:
            raise ValueError(f"{value} does not fit in {n} bits")
        self._value = (self._value << n) | value
        self._position += n

    def uvlc(self, value: int) -> None:
        """Write 0 <= `value` <= 2^32 - 1 as uvlc()."""
        if not 0 <= value <= LEB128_MAX_VALUE:
            raise ValueError(f"uvlc() holds 0..{LEB128_MAX_VALUE}, not {value}")
        if value == LEB128_MAX_VALUE:
            self.f(33, 1)
            return
        bits = (value + 1).bit_length()
        self.f(2 * bits - 1, value + 1)

    def leb128(self, value: int) -> None:
        """Write 0 <= `value` <= 2^32 - 1 as the shortest leb128()."""
        for byte in encode_leb128(value):
            self.f(8, byte)

    def ns(self, n: int, value: int) -> None:
        """Write `value` in [0, n) as ns(n)."""
        if not 0 <= value < n:
            raise ValueError(f"ns({n}) holds 0..{n - 1}, not {value}")
        width = n.bit_length()
        short_codes = (1 << width) - n
        if value < short_codes:
            self.f(width - 1, value)
        else:
            self.f(width, value + short_codes)

    def to_bytes(self) -> bytes:
        """Return the bits as bytes, padded with zero bits to a whole byte."""
        size = (self._position + 7) >> 3
        return (self._value << (8 * size - self._position)).to_bytes(size, "big")


def encode_leb128(value: int) -> bytes:
    """Return the shortest leb128() of 0 <= `value` <= 2^32 - 1."""
    if not 0 <= value <= LEB128_MAX_VALUE:
        raise ValueError(f"leb128() holds 0..{LEB128_MAX_VALUE}, not {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    out.append(value)
    return bytes(out)
