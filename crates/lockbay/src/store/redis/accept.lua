-- An operator takes the store as it is: a new generation begins and effects resume.
--
-- KEYS  1  <tag>meta; the layout of keys stands in redis_commit.lua
-- ARGV  1  the new generation
--       2  the highest revision that the operator's client has seen
-- Reply {now, revision}

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('HGET', KEYS[1], 'revision') or 0)
local revision = math.max(last + 1, tonumber(ARGV[2]) + 1, now)
local number = string.format('%.0f', revision)
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'revision', number, 'accepted', '1')
redis.call('HDEL', KEYS[1], 'halted')
return {now, revision}
