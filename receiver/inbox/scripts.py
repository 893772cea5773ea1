"""What the inbox asks Redis to do in one step: the scripts of its reader and writer."""

from __future__ import annotations

from typing import Final

# KEYS: stream. An entry of a stranger may have used up its ids: once all that it holds has been read, it is begun anew.
RENEW: Final = """
return redis.call('XLEN', KEYS[1]) == 0 and redis.call('DEL', KEYS[1]) or 0
"""

# Bytes of an entry of these fields, of its body as it is and, where it is packed, as it will be. Who wrote it may lie.
WEIGH: Final = """
local function weigh(fields)
  local bytes = 0
  for i = 1, #fields, 2 do
    bytes = bytes + #fields[i + 1]
    if fields[i] == 'size' then bytes = bytes + math.max(0, tonumber(fields[i + 1]) or 0) end
  end
  return bytes
end
"""

# KEYS: stream. ARGV: group, consumer, how many entries, how many bytes, how many entries at a time. Where all of them
# are more than so many bytes, any may be large, and each is read by itself. An entry that is neither new to the group
# nor pending would never be read: a stranger has moved the group's place, or removed a reader. Then the next call reads
# all of them again.
READ: Final = (
    WEIGH
    + """
local entries, size = {}, 0
local all = redis.pcall('MEMORY', 'USAGE', KEYS[1])
if type(all) ~= 'number' or all > tonumber(ARGV[4]) then ARGV[5] = 1 end
while #entries < tonumber(ARGV[3]) and size < tonumber(ARGV[4]) do
  local step = math.min(tonumber(ARGV[5]), tonumber(ARGV[3]) - #entries)
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', step, 'STREAMS', KEYS[1], '>')
  if not reply then break end
  for _, entry in ipairs(reply[1][2]) do
    entries[#entries + 1] = entry
    size = size + weigh(entry[2])
  end
end
if #entries == 0 then
  local left = redis.call('XLEN', KEYS[1])
  if left > 0 and left > redis.call('XPENDING', KEYS[1], ARGV[1])[1] then
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], '0')
  end
end
return entries
"""
)

# KEYS: stream. ARGV: group, ids of entries. No transaction: a Redis that is full takes none.
DONE: Final = """
local group = table.remove(ARGV, 1)
redis.call('XACK', KEYS[1], group, unpack(ARGV))
redis.call('XDEL', KEYS[1], unpack(ARGV))
"""

# KEYS: stream. ARGV: group, idle for how many milliseconds. A reader with pending entries would lose them.
TIDY: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local readers, removed = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1]), 0
if readers.err then return 0 end
for _, reader in ipairs(readers) do
  local it = {}
  for i = 1, #reader, 2 do it[reader[i]] = reader[i + 1] end
  if it.pending == 0 and it.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], it.name)
    removed = removed + 1
  end
end
return removed
"""
