-- Reads records as they are at one moment, with the server's time. Writes nothing.
--
-- KEYS  1  <tag>meta, for its tag; the layout of keys stands in redis_commit.lua
-- ARGV  1  get:  kind, id, …
--          scan: kind, lower and upper bound as ZRANGEBYLEX takes them, count
--          due:  kind, count
-- Reply {now, id, v, r, d, …}: r is "" where there is no record (get) or an index entry (scan);
--       d is "" where there is no deadline.

local tag = string.sub(KEYS[1], 1, -5)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local reply = {now}

local function read(kind, id)
  local record = redis.call('HMGET', tag .. 'r:' .. kind .. '/' .. id, 'v', 'r', 'd')
  local at = #reply
  reply[at + 1] = id
  reply[at + 2] = record[1] or ''
  reply[at + 3] = record[2] or ''
  reply[at + 4] = record[3] or ''
end

local what, kind = ARGV[1], ARGV[2]
if what == 'get' then
  for at = 2, #ARGV, 2 do
    read(ARGV[at], ARGV[at + 1])
  end
  return reply
end

local found
if what == 'scan' then
  found = redis.call('ZRANGEBYLEX', tag .. 'k:' .. kind, ARGV[3], ARGV[4], 'LIMIT', 0, ARGV[5])
else
  local moment = string.format('%.0f', now)
  found = redis.call('ZRANGEBYSCORE', tag .. 'd:' .. kind, '-inf', moment, 'LIMIT', 0, ARGV[3])
end
for _, id in ipairs(found) do
  read(kind, id)
end
return reply
