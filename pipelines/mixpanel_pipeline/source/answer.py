"""An answer of the Export API on disk, and the proof that it is whole.

Mixpanel answers 200 before it has read the events, so a failure on its side shows only as an
answer that ends too early. What we accept as evidence that one does not:

1. The transport came to its own end: the gzip trailer's checksum and length, the final chunk,
   or as many bytes as Content-Length said. An answer with none of the three is not accepted.
2. The last line is an event-shaped object (`event` and `properties`). A stream that is cut ends
   inside a line, or with Mixpanel's `terminated early`, or with an error object.

Whatever stands before such an end was sent on purpose, so a line there that is no event is the
data's fault, not the connection's: it can be rejected alone.
"""

import io
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from isal import igzip, isal_zlib

from mixpanel_pipeline.events.characters import replace_lone_surrogates
from mixpanel_pipeline.source.errors import BrokenAnswer

# Large enough that per-block costs vanish, small enough that a table made of it stays small.
BLOCK_BYTES = 4 * 2**20
# Mixpanel limits an event to 1 MB; a line far beyond that is a stream without line ends.
MAX_LINE_BYTES = 64 * 2**20
_EARLY_END = b"terminated early"


class _EventShaped(msgspec.Struct):
    event: msgspec.Raw
    properties: msgspec.Raw


_event_shaped = msgspec.json.Decoder(_EventShaped)


class Coming(io.RawIOBase):
    """A body that is read while it comes, and kept nowhere.

    Args:
        chunks: The body; what they raise is raised where it is read.

    Attributes:
        size: How many bytes came so far.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self.size += len(chunk)
            self._left = memoryview(chunk)
        length = min(len(buffer), len(self._left))
        buffer[:length] = self._left[:length]
        self._left = self._left[length:]
        return length

    def finish(self) -> None:
        """Read on to the transport's own end, which a body can come before."""
        while self.read(BLOCK_BYTES):
            pass


@dataclass(frozen=True)
class Answer:
    """The body of one export, still as compressed as it came.

    Attributes:
        path: Where it is kept, or would be.
        is_gzip: Whether it is compressed.
        coming: The body itself, when it is not kept; it can be read once.
    """

    path: Path
    is_gzip: bool
    coming: Coming | None = None

    @property
    def size(self) -> int:
        """How many bytes it has, or has had so far."""
        return self.coming.size if self.coming else self.path.stat().st_size

    def blocks(self) -> Iterator[bytes]:
        """Yield the body in blocks of whole lines, each about `BLOCK_BYTES` or one long line.

        A line ends at `\\n` and nowhere else. Whoever comes to the end has a whole answer.

        Raises:
            BrokenAnswer: It is not whole, by the rules above; what was yielded must not be loaded.
        """
        last_line = b""
        for block in self._blocks():
            last_line = _last_line(block) or last_line
            if _EARLY_END in block:
                for line in block.split(b"\n"):
                    _refuse_early_end(line)
            yield block
        if last_line:
            _prove_last(last_line)

    def _opened(self) -> Any:
        if self.is_gzip:
            return igzip.open(self.coming or self.path)
        return nullcontext(self.coming) if self.coming else self.path.open("rb")

    def _blocks(self) -> Iterator[bytes]:
        unfinished = b""
        try:
            with self._opened() as body:
                while chunk := body.read(BLOCK_BYTES):
                    end = chunk.rfind(b"\n") + 1
                    if end:
                        yield b"".join((unfinished, memoryview(chunk)[:end]))
                        unfinished = chunk[end:]
                    else:
                        unfinished += chunk
                        if len(unfinished) > MAX_LINE_BYTES:
                            raise BrokenAnswer(f"a line is longer than {MAX_LINE_BYTES} bytes")
        except (EOFError, igzip.BadGzipFile, isal_zlib.error) as error:
            raise BrokenAnswer(f"the compressed answer is damaged or cut ({error})") from error
        if unfinished:
            yield unfinished


def _refuse_early_end(line: bytes) -> None:
    """Raise `BrokenAnswer` for Mixpanel's word that it gave up: no event ends like that."""
    if line.rstrip().endswith(_EARLY_END):
        # What stands before it on its line may be half an event.
        raise BrokenAnswer(f"Mixpanel ended it with '{_EARLY_END.decode()}'")


def _last_line(block: bytes) -> bytes:
    """The last line that is not blank, empty if all are."""
    line = block[block.rfind(b"\n", 0, -1) + 1 :].strip()
    return line or block.rstrip().rpartition(b"\n")[2]


def _prove_last(line: bytes) -> None:
    try:
        _event_shaped.decode(replace_lone_surrogates(line)[0])
    except RecursionError:
        # Nested too deeply to be read: all that can be seen is that it is closed.
        if not line.endswith(b"}"):
            raise BrokenAnswer("the answer's last line is cut") from None
    except msgspec.DecodeError as error:
        raise BrokenAnswer("the answer's last line is not a whole event") from error
