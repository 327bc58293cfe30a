"""Where a command and a reply of RESP begin and end.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""


def parse_request(buffer: bytes | bytearray) -> tuple[list[bytes], int] | None:
    """The words of the first command and where it ends, or None while it is incomplete."""
    line_end = buffer.find(b"\r\n")
    if line_end < 0:
        return None
    position = line_end + 2
    if not buffer.startswith(b"*"):  # an inline command, as typed into a terminal
        return bytes(buffer[:line_end]).split(), position
    words: list[bytes] = []
    for _ in range(int(buffer[1:line_end])):
        end = reply_end(buffer, position)
        if end is None:
            return None
        words.append(bytes(buffer[buffer.index(b"\r\n", position) + 2 : end - 2]))
        position = end
    return words, position


def reply_end(buffer: bytes | bytearray, start: int = 0) -> int | None:
    """Where the RESP2 or RESP3 value that begins here ends, or None while it is incomplete."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, head, end = buffer[start : start + 1], buffer[start + 1 : line_end], line_end + 2
    if kind in b"+-:_#,(":
        return end
    if kind in b"$=!":
        end += int(head) + 2 if int(head) >= 0 else 0  # -1: null, without a body
        return end if end <= len(buffer) else None
    if kind not in b"*~>%|":
        raise ValueError(f"not RESP: {bytes(buffer[start:line_end])!r}")
    values = max(int(head), 0) * (2 if kind in b"%|" else 1)
    if kind == b"|":
        values += 1  # an attribute comes before the value that it describes
    for _ in range(values):
        inner = reply_end(buffer, end)
        if inner is None:
            return None
        end = inner
    return end
