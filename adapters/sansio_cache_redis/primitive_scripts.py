"""The Lua texts of the primitives: look, add, swap, touch, lock.

What holds for all texts says `scripts.py`. These state what `sansio_cache.store_rules` does in Python.
"""

from __future__ import annotations

from typing import Final

from sansio_cache_redis.scripts import CLOCK, Script

# What a cell begins with, in the order of `sansio_cache.cell`.
_HEADER: Final = """
local zero = string.rep('\\0', 16)
local function u64(text, at) return (struct.unpack('>I8', text, at)) end
local function header(kind, grant, deadline, soft, filled_by)
  return string.char(0xC5, kind) .. grant .. struct.pack('>I8I8', deadline, soft) .. filled_by
end
local function is_cell(v)
  return type(v) == 'string' and #v >= 50 and v:byte(1) == 0xC5 and v:byte(2) <= 2
end
"""

# The first 50 bytes are enough to see whose lease it is; false where there is none or it is not a cell.
_LEASED_CELL: Final = """
local function leased_cell(lease_id)
  local v = redis.pcall('GETRANGE', KEYS[1], 0, 49)
  if not is_cell(v) then return false end
  local grant = v:sub(3, 18)
  if grant == zero or grant:sub(1, #lease_id) ~= lease_id then return false end
  return v
end
"""

# Whether the first 67 bytes of a cell begin a value, and not only the answer that there is nothing.
_IS_VALUE: Final = """
local function is_value(v)
  return v:byte(2) == 1 and (#v < 72 or v:byte(67) ~= 2)
end
"""

# A cell with what it has left to live. No ARGV.
INSPECT: Final = Script(
    "inspect",
    CLOCK
    + """
local v = redis.pcall('GET', KEYS[1])
if not v then return {0, us} end
if type(v) ~= 'string' then return {2, us} end
return {1, us, v, redis.call('PTTL', KEYS[1])}
""",
)

# A hold where there is no value. ARGV: nonce, hold_ms, filled_by of a value that is none, or nothing; floor
CLAIM: Final = Script(
    "claim",
    CLOCK
    + _HEADER
    + _IS_VALUE
    + """
local nonce, hold_ms, floor = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local v = redis.pcall('GETRANGE', KEYS[1], 0, 71)
if v ~= '' then
  if not is_cell(v) then return {0, us} end
  if is_value(v) and v:sub(35, 50) ~= ARGV[3] and (struct.unpack('>I7', v, 44)) >= floor then
    return {0, us}
  end
  if v:byte(2) == 2 and (struct.unpack('>I7', v, 12)) >= floor then
    local grant, left = v:sub(3, 18), u64(v, 19) - now
    if grant:sub(1, 8) == nonce then return {1, us, grant} end
    if left > 0 and left <= 86400000 then return {2, us, left} end
  end
end
local grant = nonce .. struct.pack('>I8', us)
redis.call('SET', KEYS[1], header(2, grant, now + hold_ms, 0, zero), 'PX', hold_ms)
return {1, us, grant}
""",
)

# ARGV: version, nonce, hard_ttl_ms (0: as it was, below: it goes), soft_ttl_ms (0: none), body without tags,
# channel, the id of the new value, or nothing; floor
SWAP: Final = Script(
    "swap",
    CLOCK
    + _HEADER
    + _IS_VALUE
    + """
local version, nonce, hard_ttl, soft_ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local v = redis.pcall('GETRANGE', KEYS[1], 0, 71)
if not is_cell(v) or not is_value(v) then return {0, us} end
local filled_by = v:sub(35, 50)
if (struct.unpack('>I7', v, 44)) < tonumber(ARGV[8]) then return {0, us} end
if filled_by:sub(1, 8) == nonce then return {2, us, filled_by} end
local soft = u64(v, 27)
if filled_by ~= version or (soft > 0 and soft <= now) or #v < 72 then return {0, us} end
-- The tags with their versions, byte for byte: each is 16 bytes, the length of its name, its name.
local at, count = 72, v:byte(68)
for _ = 1, count do
  local length = redis.call('GETRANGE', KEYS[1], at + 16, at + 17)
  if #length < 2 then return {0, us} end
  at = at + 18 + length:byte(1) * 256 + length:byte(2)
end
local tags = ''
if count > 0 then
  tags = redis.call('GETRANGE', KEYS[1], 72, at - 1)
  if #tags < at - 72 then return {0, us} end
end
local body, grant = ARGV[5], ARGV[7]
if grant == '' then grant = nonce .. struct.pack('>I8', us) end
body = body:sub(1, 17) .. string.char(count) .. body:sub(19, 22) .. tags .. body:sub(23)
if hard_ttl < 0 then
  redis.call('UNLINK', KEYS[1])
  redis.pcall(ARGV[6] == KEYS[1] and 'SPUBLISH' or 'PUBLISH', ARGV[6], KEYS[1])
  return {1, us, grant}
end
if hard_ttl > 0 then
  soft = 0
  if soft_ttl > 0 then soft = now + soft_ttl end
else
  hard_ttl = redis.call('PTTL', KEYS[1])
  if hard_ttl < 1 then return {0, us} end
end
redis.call('SET', KEYS[1], header(1, zero, 0, soft, grant) .. body, 'PX', hard_ttl)
redis.pcall(ARGV[6] == KEYS[1] and 'SPUBLISH' or 'PUBLISH', ARGV[6], KEYS[1])
return {1, us, grant}
""",
)

# ARGV: version, ttl_ms, max_life_ms, floor
TOUCH: Final = Script(
    "touch",
    CLOCK
    + _HEADER
    + _IS_VALUE
    + """
local v = redis.pcall('GETRANGE', KEYS[1], 0, 71)
if not is_cell(v) or not is_value(v) or v:sub(35, 50) ~= ARGV[1] then return {0, us} end
if (struct.unpack('>I7', v, 44)) < tonumber(ARGV[4]) then return {0, us} end
local soft, left = u64(v, 27), redis.call('PTTL', KEYS[1])
if soft > 0 and soft <= now then return {0, us} end
local fresh_until = soft
if soft == 0 then fresh_until = now + left end
-- The byte before the microseconds is the place of a key in its batch.
local filled = math.floor((struct.unpack('>I7', v, 44)) / 1000)
local longer = math.min(now + ARGV[2] - fresh_until, filled + ARGV[3] - (now + left))
if longer > 0 then
  if soft > 0 then redis.call('SETRANGE', KEYS[1], 26, struct.pack('>I8', soft + longer)) end
  redis.call('PEXPIRE', KEYS[1], left + longer)
end
return {1, us}
""",
)

# ARGV: nonce, lease_ms
LOCK: Final = Script(
    "lock",
    CLOCK
    + _HEADER
    + """
local nonce, lease_ms = ARGV[1], tonumber(ARGV[2])
local v = redis.pcall('GETRANGE', KEYS[1], 0, 49)
local grant, last = nil, 0
if v ~= '' then
  if not is_cell(v) then return {0, us} end
  local held_by, left = v:sub(3, 18), u64(v, 19) - now
  if held_by:sub(1, 8) == nonce then
    grant = held_by
  elseif held_by ~= zero and left > 0 and left <= 86400000 then
    return {2, us, left}
  end
  last = math.max(u64(v, 11), u64(v, 43))
end
if not grant then grant = nonce .. struct.pack('>I8', math.max(us, last + 1)) end
redis.call('SET', KEYS[1], header(2, grant, now + lease_ms, 0, zero), 'PX', math.max(604800000, lease_ms))
return {1, us, grant}
""",
)

# ARGV: grant, or its nonce; channel
UNLOCK: Final = Script(
    "unlock",
    CLOCK
    + _HEADER
    + _LEASED_CELL
    + """
local v = leased_cell(ARGV[1])
if not v then return {0, us} end
redis.call('SET', KEYS[1], header(0, zero, 0, 0, v:sub(3, 18)), 'PX', 604800000)
redis.pcall(ARGV[2] == KEYS[1] and 'SPUBLISH' or 'PUBLISH', ARGV[2], KEYS[1])
return {1, us}
""",
)

PRIMITIVES: Final = (INSPECT, CLAIM, SWAP, TOUCH, LOCK, UNLOCK)
