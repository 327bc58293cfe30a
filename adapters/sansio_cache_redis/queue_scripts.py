"""The Lua texts of queues. They state what `sansio_cache.queue_rules` does in Python.

What holds for all texts says `scripts.py`. All keys of a script are of one partition, whose part in braces
puts them into one slot of a cluster. Entries leave the stream by name, and never by a limit of its length:
that would take along what nobody has applied.

What a consumer asks for runs on a server that is out of memory: it is what makes room there.
"""

from __future__ import annotations

from typing import Final

from sansio_cache_redis.scripts import CLOCK, WHEN_FULL, Script

# Appends under a token of its own: the server's clock, or one more than the last. XADD refuses what is not
# higher than that, and only then it is asked for.
_APPEND: Final = """
local function last_of(stream)
  local about = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then return tonumber(string.match(about[i + 1], '^(%d+)')) end
  end
end
local function append(stream, at, ...)
  local added = redis.pcall('XADD', stream, string.format('%.0f-0', at), ...)
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'equal or smaller') then return added end
    at = last_of(stream) + 1
    added = redis.call('XADD', stream, string.format('%.0f-0', at), ...)
  end
  return string.match(added, '^(%d+)')
end
"""

# KEYS: stream, pending, dead, then a hold for each write. ARGV: most, partitions, then for each write: key,
# grant, body, tags. Answers with the tokens, as texts.
APPEND: Final = Script(
    "append",
    CLOCK
    + _APPEND
    + """
local backlog, agreed = redis.call('XLEN', KEYS[1]), redis.call('HGET', KEYS[2], '')
if agreed and agreed ~= ARGV[2] then return {2, us, tonumber(agreed)} end
local tokens, fresh = {}, {}
for i = 1, #KEYS - 3 do
  local held = redis.pcall('GETRANGE', KEYS[3 + i], 0, 17)
  if held == '\\197\\2' .. ARGV[4 * i] then
    fresh[#fresh + 1] = i
  else
    local pending = redis.call('HGET', KEYS[2], ARGV[4 * i - 1])
    local is_mine = pending and pending:sub(1, 16) == ARGV[4 * i]
    tokens[i] = is_mine and pending:sub(17) or '0'
  end
end
if #fresh > 0 and backlog >= tonumber(ARGV[1]) then return {3, us, backlog} end
-- Where all of it was queued before, WAIT is about this.
if not agreed or #fresh == 0 then redis.call('HSET', KEYS[2], '', ARGV[2]) end
for n, i in ipairs(fresh) do
  local key, grant = ARGV[4 * i - 1], ARGV[4 * i]
  local token = append(KEYS[1], us + n - 1, 'k', key, 'v', ARGV[4 * i + 1], 't', ARGV[4 * i + 2])
  if type(token) ~= 'string' then return token end
  redis.call('HSET', KEYS[2], key, grant .. token)
  redis.call('HDEL', KEYS[3], key)
  redis.call('UNLINK', KEYS[3 + i])
  tokens[i] = token
end
return {1, us, backlog, tokens}
""",
)

# KEYS: stream, pending. ARGV: partitions or 0, the keys. Answers for each: an entry, or an empty text.
PEEK: Final = Script(
    "peek",
    CLOCK
    + """
local agreed = ARGV[1] ~= '0' and redis.call('HGET', KEYS[2], '')
if agreed and agreed ~= ARGV[1] then return {2, us, tonumber(agreed)} end
local found = {}
for i = 2, #ARGV do
  local pending = redis.call('HGET', KEYS[2], ARGV[i])
  local entry = pending and redis.call('XRANGE', KEYS[1], pending:sub(17) .. '-0', pending:sub(17) .. '-0')[1]
  found[i - 1] = entry or ''
end
return {1, us, found}
""",
)

# KEYS: lease, stream. ARGV: grant, after, count, most_bytes, crashes, 1 to count what was delivered before.
# Answers with entries, each with how often it was delivered.
TAKE: Final = Script(
    "take",
    WHEN_FULL
    + CLOCK
    + """
local held = redis.pcall('GETRANGE', KEYS[1], 0, 17)
if held ~= '\\197\\2' .. ARGV[1] then return {0, us} end
local stream, group, me = KEYS[2], 'consumers', 'consumer'
local after, count, room = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local taken = {}
-- How many of the next entries there is room for: the last one may be longer than what is left.
local function fitting(from, most)
  local fit = 0
  for i, entry in ipairs(redis.call('XRANGE', stream, from, '+', 'COUNT', most)) do
    if room <= 0 then break end
    fit, room = i, room - #entry[2][4]
  end
  return fit
end
while #taken < count and room > 0 do
  local most = math.min(count - #taken, 16)
  local before = redis.pcall('XPENDING', stream, group, '(' .. after .. '-0', '+', most)
  if before.err then redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM') end
  if #before == 0 then break end
  if #taken == 0 and before[1][4] >= tonumber(ARGV[5]) then
    before, count = {before[1]}, 1
  end
  local claim, deliveries = {'XCLAIM', stream, group, me, 0}, {}
  for i = 1, math.max(fitting(before[1][1], #before), 1) do
    local id = before[i][1]
    claim[#claim + 1] = id
    deliveries[id] = before[i][4] + tonumber(ARGV[6])
    after = string.match(id, '^(%d+)')
    local entry = ARGV[6] == '0' and redis.call('XRANGE', stream, id, id)[1]
    if entry then taken[#taken + 1] = {entry[1], entry[2], deliveries[id]} end
  end
  for _, entry in ipairs(ARGV[6] == '1' and redis.call(unpack(claim)) or {}) do
    taken[#taken + 1] = {entry[1], entry[2], deliveries[entry[1]]}
  end
end
while #taken < count and room > 0 do
  local fit = fitting('(' .. after .. '-0', math.min(count - #taken, 16))
  if fit == 0 then break end
  local read = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', fit, 'STREAMS', stream, '>')
  if not read then break end
  for _, entry in ipairs(read[1][2]) do
    taken[#taken + 1] = {entry[1], entry[2], 1}
    after = string.match(entry[1], '^(%d+)')
  end
end
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local oldest = first and string.match(first[1], '^(%d+)') or '0'
return {1, us, redis.call('XLEN', stream), taken, oldest}
""",
)

# KEYS: lease, stream, pending, letters, dead. ARGV: grant, then for each verdict: token, key, reason, found.
SETTLE: Final = Script(
    "settle",
    WHEN_FULL
    + CLOCK
    + _APPEND
    + """
local held = redis.pcall('GETRANGE', KEYS[1], 0, 17)
if held ~= '\\197\\2' .. ARGV[1] then return {0, us} end
local stream, group = KEYS[2], 'consumers'
for at = 2, #ARGV, 4 do
  local token, key, reason, found = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local id = token .. '-0'
  local pending = redis.call('HGET', KEYS[3], key)
  local newest = pending and tonumber(pending:sub(17)) or 0
  local is_newest = newest == tonumber(token)
  local entry = not (is_newest and reason == '' and found == '0') and redis.call('XRANGE', stream, id, id)[1]
  -- Of a token that was issued anew, it may be another key's.
  local is_mine = is_newest or not entry or entry[2][2] == key
  local last = entry and found ~= '0' and last_of(stream)
  if is_mine then redis.pcall('XACK', stream, group, id) end
  if is_mine and redis.call('XDEL', stream, id) == 1 then
    if found ~= '0' then
      -- XSETID would take it back as well, where there is no entry above.
      if tonumber(found) > last then redis.pcall('XSETID', stream, found .. '-0') end
      if is_newest then
        local again = append(stream, us, unpack(entry[2]))
        redis.call('HSET', KEYS[3], key, pending:sub(1, 16) .. again)
      end
    else
      if reason ~= '' then
        local fields = entry[2]
        append(KEYS[4], us, 'k', key, 'v', fields[4], 't', fields[6], 'i', token, 'r', reason)
        if newest <= tonumber(token) then redis.call('HSET', KEYS[5], key, token) end
      end
      if newest <= tonumber(token) then redis.call('HDEL', KEYS[3], key) end
    end
  end
end
return {1, us}
""",
)

# KEYS: members. ARGV: member, ttl_ms
ATTEND: Final = Script(
    "attend",
    WHEN_FULL
    + CLOCK
    + """
local ttl = tonumber(ARGV[2])
if ttl > 0 then redis.call('ZADD', KEYS[1], now + ttl, ARGV[1]) else redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return {1, us, redis.call('ZCARD', KEYS[1])}
""",
)

# KEYS: stream, pending, letters. ARGV: partitions, 0 to change nothing
MEASURE: Final = Script(
    "measure",
    CLOCK
    + """
local backlog, agreed = redis.call('XLEN', KEYS[1]), redis.call('HGET', KEYS[2], '')
local letters = redis.call('XLEN', KEYS[3])
if ARGV[1] ~= '0' and (backlog + letters == 0 or not agreed) then
  redis.call('HSET', KEYS[2], '', ARGV[1])
  agreed = ARGV[1]
end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local oldest = first and string.match(first[1], '^(%d+)') or '0'
return {1, us, backlog, oldest, letters, tonumber(agreed or '0')}
""",
)

# KEYS: letters, dead. ARGV: after, count
LETTERS: Final = Script(
    "letters",
    CLOCK
    + """
local read = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
local found = {}
for i, letter in ipairs(read) do
  local newest = redis.call('HGET', KEYS[2], letter[2][2])
  found[i] = {letter[1], letter[2], newest == letter[2][8] and 0 or 1}
end
return {1, us, found}
""",
)

# KEYS: stream, pending, letters, dead. ARGV: letter, key, nonce, partitions or 0. Answers with a token, 0
# where there is no such letter, -1 where a later write was queued.
REPLAY: Final = Script(
    "replay",
    CLOCK
    + _APPEND
    + """
local agreed = ARGV[4] ~= '0' and redis.call('HGET', KEYS[2], '')
if agreed and agreed ~= ARGV[4] then return {2, us, tonumber(agreed)} end
local letter = redis.call('XRANGE', KEYS[3], ARGV[1] .. '-0', ARGV[1] .. '-0')[1]
if not letter then
  local pending = redis.call('HGET', KEYS[2], ARGV[2])
  if pending and pending:sub(1, 8) == ARGV[3] then return {1, us, 0, {pending:sub(17)}} end
  return {1, us, 0, {'0'}}
end
local fields = letter[2]
if redis.call('HGET', KEYS[4], fields[2]) ~= fields[8] then return {1, us, 0, {'-1'}} end
local token = append(KEYS[1], us, 'k', fields[2], 'v', fields[4], 't', fields[6])
if type(token) ~= 'string' then return token end
redis.call('HSET', KEYS[2], fields[2], ARGV[3] .. string.rep('\\0', 8) .. token)
redis.call('HDEL', KEYS[4], fields[2])
redis.call('XDEL', KEYS[3], letter[1])
return {1, us, 0, {token}}
""",
)

# KEYS: letters, dead. ARGV: letters
DROP: Final = Script(
    "drop",
    CLOCK
    + """
local count = 0
for i, number in ipairs(ARGV) do
  local id = number .. '-0'
  local letter = redis.call('XRANGE', KEYS[1], id, id)[1]
  if letter then
    if redis.call('HGET', KEYS[2], letter[2][2]) == letter[2][8] then
      redis.call('HDEL', KEYS[2], letter[2][2])
    end
    count = count + redis.call('XDEL', KEYS[1], id)
  end
end
return {1, us, count}
""",
)

QUEUES: Final = (APPEND, PEEK, TAKE, SETTLE, ATTEND, MEASURE, LETTERS, REPLAY, DROP)
