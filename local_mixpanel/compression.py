"""gzip as the server sends it: streamed, and kept for whoever asks again."""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator

# zlib's window of 2^15 bytes, plus 16 for gzip's header and trailer.
_GZIP_WINDOW = 15 + 16
# Up to 3 a level costs nothing on events; 6 takes twice the time for a sixth less.
_LEVEL = 3
# Fewer, larger writes than zlib's own output would give.
_PART_BYTES = 64 * 1024


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether an Accept-Encoding header lists gzip without forbidding it by `q=0`."""
    for coding in (accept_encoding or "").lower().split(","):
        name, *parameters = (token.strip() for token in coding.split(";"))
        if name == "gzip":
            quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            return bool(quality.strip("0."))
    return False


def gzip_parts(parts: Iterable[bytes], *, has_trailer: bool = True) -> Iterator[bytes]:
    """Compress as one gzip member; without its trailer, all content still comes out."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    pending, size = [], 0
    for part in parts:
        pending.append(compressor.compress(part))
        size += len(pending[-1])
        if size >= _PART_BYTES:
            yield b"".join(pending)
            pending, size = [], 0
    pending.append(compressor.flush(zlib.Z_FINISH if has_trailer else zlib.Z_SYNC_FLUSH))
    yield b"".join(pending)


class GzipCache:
    """Compressed answers, the least recently used forgotten first.

    A benchmark's client should wait for its own work, not for our compressing.
    """

    def __init__(self, max_bytes: int = 2 * 2**30) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, list[bytes]] = OrderedDict()
        self._bytes = 0
        self._version = -1
        self._lock = threading.Lock()

    def compressed(self, key: Hashable, version: int, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Yield `parts` compressed, from memory when `key` was asked for at this `version`."""
        with self._lock:
            if version > self._version:
                self._kept.clear()
                self._bytes, self._version = 0, version
            kept = self._kept.get(key) if version == self._version else None
            if kept is not None:
                self._kept.move_to_end(key)
        return iter(kept) if kept is not None else self._compress(key, version, parts)

    def _compress(self, key: Hashable, version: int, parts: Iterable[bytes]) -> Iterator[bytes]:
        kept: list[bytes] = []
        size = 0
        for part in gzip_parts(parts):
            yield part
            size += len(part)
            if size <= self._max_bytes:
                kept.append(part)
            else:
                kept.clear()
        if size <= self._max_bytes:
            self._keep(key, version, kept, size)

    def _keep(self, key: Hashable, version: int, parts: list[bytes], size: int) -> None:
        with self._lock:
            if version != self._version or key in self._kept:
                return
            self._kept[key] = parts
            self._bytes += size
            while self._bytes > self._max_bytes:
                _, forgotten = self._kept.popitem(last=False)
                self._bytes -= sum(map(len, forgotten))
