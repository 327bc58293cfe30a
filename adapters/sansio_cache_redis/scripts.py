"""The Lua texts: the steps of the lease protocol that must be one step at the server.

Constant texts, data only in KEYS and ARGV. They state exactly what `sansio_cache.memory_store` does in
Python, and one suite of tests holds both to it. Offsets are those of `sansio_cache.cell` (Lua counts from 1).

They are short because the server pays for them by the step: no function is defined in a script, as that would
be done in every run of it, the clock is asked for only where it is needed, and what the client can work out
comes as one argument. Acquires and holds take any number of keys, as most of the price is that of a script
and not of a key. Each key gets a grant of its own: the nonce, its place among the keys, and the microsecond,
which is the same for all (S3). All other scripts take one key.

Each answers with an array, which no other command's reply is like; where it asks for the time, with that
among the first, in microseconds.

Who stores a value or gives a lease up tells those who wait for the key. That is a courtesy (`pcall`): where
the server does not allow it, waiters poll. A channel that is called like the key is one of the key's slot.

What was issued before the *floor* counts as gone: see `facts.py`. It comes as an argument, in microseconds,
and is 0 nearly always.

No shebang: a script that only removes keys must run while the server is out of memory (fault 13). What
keeps a lease, or takes something out of a queue, writes a few bytes, and must run then as well: it says so.
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


WHEN_FULL: Final = "#!lua flags=allow-oom\n"
"""What a script begins with that runs while the server is out of memory, though it writes."""
CLOCK: Final = """
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2]
local now = math.floor(us / 1000)
"""

# The first 50 bytes are enough to see whose lease it is. ARGV[1] is the grant, or its nonce.
LEASED: Final = """
local v = redis.pcall('GETRANGE', KEYS[1], 0, 49)
local is_mine = type(v) == 'string' and #v == 50 and v:byte(1) == 0xC5 and v:byte(2) <= 2
  and v:sub(3, 2 + #ARGV[1]) == ARGV[1] and v:sub(3, 18) ~= string.rep('\\0', 16)
"""


MOST_KEYS: Final = 100
"""How many keys an acquire or a hold may take at once: that keeps the server for about 0.3 ms. A place is one
byte of a grant."""

# KEYS: any number. ARGV: nonce, lease_ms, floor, then for each key: seen, mode ('keep' or 'drop').
# Answers for each key: the grant where there is no value, or an array that begins with a letter.
# Mostly there is nothing, and then one call does it all.
ACQUIRE: Final = Script(
    "acquire",
    CLOCK
    + """
local nonce, lease_ms, floor, answers = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), {'A', us}
local lease = struct.pack('>I8', now + lease_ms) .. string.rep('\\0', 24)
for i, key in ipairs(KEYS) do
  local grant = nonce .. struct.pack('>I1I7', i - 1, us)
  local empty = '\\197\\0' .. grant .. lease
  local v = redis.pcall('SET', key, empty, 'PX', lease_ms, 'NX', 'GET')
  local answer = grant
  if type(v) == 'table' then
    if not string.find(v.err, 'WRONGTYPE') then return v end
    answer = {'X'}
  elseif v and (#v < 50 or v:byte(1) ~= 0xC5 or v:byte(2) > 2) then
    answer = {'X'}
  elseif v then
    local kind, held_by, keep = v:byte(2), v:sub(3, 18), ARGV[2 * i + 3] == 'keep'
    local deadline, soft = struct.unpack('>I8I8', v, 19)
    local is_held = held_by ~= string.rep('\\0', 16)
    if floor > 0 then
      is_held = is_held and (struct.unpack('>I7', v, 12)) >= floor
      if kind == 2 and not is_held or kind == 1 and (struct.unpack('>I7', v, 44)) < floor then kind = 0 end
    end
    if kind == 2 then
      answer = {'T', math.max(deadline - now, 0)}
    elseif kind == 1 and (soft == 0 or now < soft) and v:sub(35, 50) ~= ARGV[2 * i + 2] then
      answer = {'H', v}
    elseif is_held and held_by:sub(1, 8) == nonce then
      answer = kind == 1 and {'R', held_by, v} or held_by
    -- A deadline that no lease can have is no reason to wait.
    elseif is_held and now < deadline and deadline - now <= 86400000 then
      answer = (kind == 1 and keep) and {'S', deadline - now, v} or {'W', deadline - now}
    elseif kind == 1 and keep then
      redis.call('SETRANGE', key, 2, grant .. lease:sub(1, 8))
      if redis.call('PTTL', key) < lease_ms then redis.call('PEXPIRE', key, lease_ms) end
      answer = {'R', grant, v}
    else
      redis.call('SET', key, empty, 'PX', lease_ms)
    end
  end
  answers[i + 2] = answer
end
return answers
""",
)

# ARGV: grant, the finished cell, hard_ttl_ms, channel, floor
FILL: Final = Script(
    "fill",
    """
local v = redis.pcall('GETRANGE', KEYS[1], 0, 49)
if type(v) ~= 'string' or #v < 50 or v:byte(1) ~= 0xC5 or v:byte(2) > 2 then return {0} end
if v:byte(2) == 1 and v:sub(35, 50) == ARGV[1] and (struct.unpack('>I7', v, 44)) >= tonumber(ARGV[5]) then
  return {2}
end
if v:sub(3, 18) ~= ARGV[1] or (struct.unpack('>I7', v, 12)) < tonumber(ARGV[5]) then return {0} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.pcall(ARGV[4] == KEYS[1] and 'SPUBLISH' or 'PUBLISH', ARGV[4], KEYS[1])
return {1}
""",
)

# ARGV: grant, lease_ms, floor
RENEW: Final = Script(
    "renew",
    WHEN_FULL
    + CLOCK
    + LEASED
    + """
local lease_ms = tonumber(ARGV[2])
if not is_mine or (struct.unpack('>I7', v, 12)) < tonumber(ARGV[3]) then return {0, us} end
redis.call('SETRANGE', KEYS[1], 18, struct.pack('>I8', now + lease_ms))
if redis.call('PTTL', KEYS[1]) < lease_ms then redis.call('PEXPIRE', KEYS[1], lease_ms) end
return {1, us}
""",
)

# ARGV: grant, or its nonce; channel
RELEASE: Final = Script(
    "release",
    LEASED
    + """
if not is_mine then return {0} end
if v:byte(2) == 1 then
  redis.call('SETRANGE', KEYS[1], 2, string.rep('\\0', 24))
else
  redis.call('UNLINK', KEYS[1])
end
redis.pcall(ARGV[2] == KEYS[1] and 'SPUBLISH' or 'PUBLISH', ARGV[2], KEYS[1])
return {1}
""",
)

# KEYS: any number. ARGV: nonce, hold_ms, floor. Answers with the grant of each key. A run takes all keys or
# none: so it is the first that tells whether there was one before, whose grants stay.
HOLD: Final = Script(
    "hold",
    CLOCK
    + """
local held, hold_ms, floor, answers = '\\197\\2' .. ARGV[1], ARGV[2], tonumber(ARGV[3]), {us}
local hold = struct.pack('>I8', now + hold_ms) .. string.rep('\\0', 24)
local is_again = true
for i, key in ipairs(KEYS) do
  local v = is_again and redis.pcall('GETRANGE', key, 0, 49)
  if type(v) == 'string' and #v == 50 and v:sub(1, 10) == held and (struct.unpack('>I7', v, 12)) >= floor then
    answers[i + 1] = v:sub(3, 18)
  else
    is_again = is_again and i > 1
    local place = struct.pack('>I1I7', i - 1, us)
    redis.call('SET', key, held .. place .. hold, 'PX', hold_ms)
    answers[i + 1] = ARGV[1] .. place
  end
end
return answers
""",
)

# Makes a value stale at once, and voids what is to be stored. ARGV: channel
EXPIRE: Final = Script(
    "expire",
    CLOCK
    + """
local v = redis.pcall('GETRANGE', KEYS[1], 0, 49)
if type(v) ~= 'string' or #v < 50 or v:byte(1) ~= 0xC5 or v:byte(2) > 2 then return {0, us} end
local is_value = v:byte(2) == 1
if is_value then
  local soft = struct.unpack('>I8', v, 27)
  if soft == 0 or soft > now then soft = now end
  redis.call('SETRANGE', KEYS[1], 2, string.rep('\\0', 24) .. struct.pack('>I8', soft))
else
  redis.call('UNLINK', KEYS[1])
end
redis.pcall(ARGV[1] == KEYS[1] and 'SPUBLISH' or 'PUBLISH', ARGV[1], KEYS[1])
return {is_value and 1 or 0, us}
""",
)

# The version of a tag. ARGV: nonce, ttl_ms, floor. It is kept for half as long again as is asked for, and for
# longer only where less than that is left: so most captures write nothing.
CAPTURE: Final = Script(
    "capture",
    CLOCK
    + """
local ttl_ms = tonumber(ARGV[2])
local kept_ms = math.floor(ttl_ms * 3 / 2)
local v = redis.pcall('GET', KEYS[1])
if type(v) == 'string' and #v == 16 and (struct.unpack('>I7', v, 10)) >= tonumber(ARGV[3]) then
  if redis.call('PTTL', KEYS[1]) < ttl_ms then redis.call('PEXPIRE', KEYS[1], kept_ms) end
else
  v = ARGV[1] .. struct.pack('>I8', us)
  redis.call('SET', KEYS[1], v, 'PX', kept_ms)
end
return {1, us, v}
""",
)

ALL: Final = (ACQUIRE, FILL, RENEW, RELEASE, HOLD, EXPIRE, CAPTURE)
