-- Reads records as they are at one moment, with the server's time. Writes nothing.
--
-- KEYS  1  <tag>meta, for its tag; the layout of keys stands in redis_commit.lua
-- ARGV  1  get:  kind, id, …
--          scan: kind, limit, bytes, lower and upper bound as ZRANGEBYLEX takes them, and "1" if
--                it is a kind of index entries, which have no records
--          back: the same, the greatest id first
--          due:  kind, limit, bytes
--          A page ends at the limit, or with the record by which its values come to so many bytes.
-- Reply {now, more, id, v, r, d, …}: more is 1 if a page ended before its end; r is "" where there
--       is no record (get) or an index entry (scan, back); d is "" where there is no deadline.

local tag = string.sub(KEYS[1], 1, -5)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local reply, bytes = {now, 0}, 0

local none = {}
local function read(kind, id, bare)
  local record = bare and none or redis.call('HMGET', tag .. 'r:' .. kind .. '/' .. id, 'v', 'r', 'd')
  local at = #reply
  reply[at + 1] = id
  reply[at + 2] = record[1] or ''
  reply[at + 3] = record[2] or ''
  reply[at + 4] = record[3] or ''
  bytes = bytes + #reply[at + 2]
end

local what, kind = ARGV[1], ARGV[2]
if what == 'get' then
  for at = 2, #ARGV, 2 do
    read(ARGV[at], ARGV[at + 1], false)
  end
  return reply
end

-- One id more than a page holds tells whether there are more.
local limit, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local found
if what == 'scan' then
  local key = tag .. 'k:' .. kind
  found = redis.call('ZRANGEBYLEX', key, ARGV[5], ARGV[6], 'LIMIT', 0, limit + 1)
elseif what == 'back' then
  local key = tag .. 'k:' .. kind
  found = redis.call('ZREVRANGEBYLEX', key, ARGV[6], ARGV[5], 'LIMIT', 0, limit + 1)
else
  local key, moment = tag .. 'd:' .. kind, string.format('%.0f', now)
  found = redis.call('ZRANGEBYSCORE', key, '-inf', moment, 'LIMIT', 0, limit + 1)
end
for at, id in ipairs(found) do
  if at > limit or bytes >= most then
    reply[2] = 1
    break
  end
  read(kind, id, ARGV[7] == '1')
end
return reply
