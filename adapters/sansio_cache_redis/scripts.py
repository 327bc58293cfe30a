"""The Lua texts: the steps of the lease protocol that must be one step at the server.

Constant texts, data only in KEYS and ARGV. One key each, so that they run on any slot of a cluster. They
state exactly what `sansio_cache.memory_store` does in Python, and one suite of tests holds both to it.
Offsets are those of `sansio_cache.cell` (Lua counts from 1). Every script answers with an array that begins
with a status and the server's clock in microseconds.

Who stores a value or gives a lease up tells those who wait for the key. That is a courtesy (`pcall`): where
the server does not allow it, waiters poll.

No shebang: a script that only removes keys must run while the server is out of memory (fault 13).
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

import attrs


@attrs.frozen
class Script:
    """A Lua text, and the digest by which the server knows it once it has seen it."""

    name: str
    text: str
    source: bytes = attrs.field(init=False, repr=False)
    """The text as it is sent."""
    sha: bytes = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "source", self.text.encode())
        # EVALSHA is defined with SHA-1; it identifies, and protects nothing.
        digest = sha1(self.source, usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest.encode())


CLOCK: Final = """
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2]
local now = math.floor(us / 1000)
local zero = string.rep('\\0', 16)
"""

# What a cell begins with, in the order of `sansio_cache.cell`.
HEADER: Final = """
local function u64(text, at) return (struct.unpack('>I8', text, at)) end
local function header(kind, grant, deadline, soft, filled_by)
  return string.char(0xC5, kind) .. grant .. struct.pack('>I8I8', deadline, soft) .. filled_by
end
local function is_cell(v)
  return type(v) == 'string' and #v >= 50 and v:byte(1) == 0xC5 and v:byte(2) <= 2
end
"""

# The first 50 bytes are enough to see whose lease it is; false where there is none or it is not a cell.
LEASED_CELL: Final = """
local function leased_cell(lease_id)
  local v = redis.pcall('GETRANGE', KEYS[1], 0, 49)
  if not is_cell(v) then return false end
  local grant = v:sub(3, 18)
  if grant == zero or grant:sub(1, #lease_id) ~= lease_id then return false end
  return v
end
"""

# ARGV: nonce, lease_ms, seen, mode ('keep' or 'drop')
ACQUIRE: Final = Script(
    "acquire",
    CLOCK
    + HEADER
    + """
local nonce, lease_ms, seen, keep = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == 'keep'
local grant = nonce .. struct.pack('>I8', us)
local v = redis.pcall('GET', KEYS[1])
if v then
  if not is_cell(v) then return {'X', us} end
  local kind, held_by, deadline = v:byte(2), v:sub(3, 18), u64(v, 19)
  if kind == 2 then return {'T', us, math.max(deadline - now, 0)} end
  if kind == 1 then
    local soft = u64(v, 27)
    if (soft == 0 or now < soft) and v:sub(35, 50) ~= seen then return {'H', us, v} end
  end
  if held_by ~= zero then
    if held_by:sub(1, 8) == nonce then
      if kind == 1 then return {'R', us, held_by, v} end
      return {'L', us, held_by}
    end
    -- A deadline that no lease can have is no reason to wait.
    if now < deadline and deadline - now <= 86400000 then
      if kind == 1 and keep then return {'S', us, deadline - now, v} end
      return {'W', us, deadline - now}
    end
  end
  if kind == 1 and keep then
    redis.call('SETRANGE', KEYS[1], 2, grant .. struct.pack('>I8', now + lease_ms))
    if redis.call('PTTL', KEYS[1]) < lease_ms then redis.call('PEXPIRE', KEYS[1], lease_ms) end
    return {'R', us, grant, v}
  end
end
redis.call('SET', KEYS[1], header(0, grant, now + lease_ms, 0, zero), 'PX', lease_ms)
return {'L', us, grant}
""",
)

# ARGV: grant, hard_ttl_ms, soft_ttl_ms (0: none), body, channel
FILL: Final = Script(
    "fill",
    CLOCK
    + HEADER
    + """
local grant, soft_ttl = ARGV[1], tonumber(ARGV[3])
local v = redis.pcall('GETRANGE', KEYS[1], 0, 49)
if not is_cell(v) then return {0, us} end
if v:byte(2) == 1 and v:sub(35, 50) == grant then return {2, us} end
if v:sub(3, 18) ~= grant then return {0, us} end
local soft = 0
if soft_ttl > 0 then soft = now + soft_ttl end
redis.call('SET', KEYS[1], header(1, zero, 0, soft, grant) .. ARGV[4], 'PX', ARGV[2])
redis.pcall('PUBLISH', ARGV[5], KEYS[1])
return {1, us}
""",
)

# ARGV: grant, lease_ms
RENEW: Final = Script(
    "renew",
    CLOCK
    + HEADER
    + LEASED_CELL
    + """
local lease_ms = tonumber(ARGV[2])
if not leased_cell(ARGV[1]) then return {0, us} end
redis.call('SETRANGE', KEYS[1], 18, struct.pack('>I8', now + lease_ms))
if redis.call('PTTL', KEYS[1]) < lease_ms then redis.call('PEXPIRE', KEYS[1], lease_ms) end
return {1, us}
""",
)

# ARGV: grant, or its nonce; channel
RELEASE: Final = Script(
    "release",
    CLOCK
    + HEADER
    + LEASED_CELL
    + """
local v = leased_cell(ARGV[1])
if not v then return {0, us} end
if v:byte(2) == 1 then
  redis.call('SETRANGE', KEYS[1], 2, string.rep('\\0', 24))
else
  redis.call('UNLINK', KEYS[1])
end
redis.pcall('PUBLISH', ARGV[2], KEYS[1])
return {1, us}
""",
)

# ARGV: nonce, hold_ms
HOLD: Final = Script(
    "hold",
    CLOCK
    + HEADER
    + LEASED_CELL
    + """
local hold_ms = tonumber(ARGV[2])
local v = leased_cell(ARGV[1])
if v and v:byte(2) == 2 then return {1, us, v:sub(3, 18)} end
local grant = ARGV[1] .. struct.pack('>I8', us)
redis.call('SET', KEYS[1], header(2, grant, now + hold_ms, 0, zero), 'PX', hold_ms)
return {1, us, grant}
""",
)

# Makes a value stale at once. ARGV: channel
EXPIRE: Final = Script(
    "expire",
    CLOCK
    + HEADER
    + """
local v = redis.pcall('GETRANGE', KEYS[1], 0, 49)
if not is_cell(v) or v:byte(2) == 2 then return {0, us} end
if v:byte(2) == 1 then
  local soft = u64(v, 27)
  if soft == 0 or soft > now then soft = now end
  redis.call('SETRANGE', KEYS[1], 2, string.rep('\\0', 24) .. struct.pack('>I8', soft))
else
  redis.call('UNLINK', KEYS[1])
end
redis.pcall('PUBLISH', ARGV[1], KEYS[1])
return {v:byte(2), us}
""",
)

# The version of a tag. ARGV: nonce, ttl_ms
CAPTURE: Final = Script(
    "capture",
    CLOCK
    + """
local ttl_ms = tonumber(ARGV[2])
local v = redis.pcall('GET', KEYS[1])
if type(v) == 'string' and #v == 16 then
  if redis.call('PTTL', KEYS[1]) < ttl_ms then redis.call('PEXPIRE', KEYS[1], ttl_ms) end
else
  v = ARGV[1] .. struct.pack('>I8', us)
  redis.call('SET', KEYS[1], v, 'PX', ttl_ms)
end
return {1, us, v}
""",
)

ALL: Final = (ACQUIRE, FILL, RENEW, RELEASE, HOLD, EXPIRE, CAPTURE)
