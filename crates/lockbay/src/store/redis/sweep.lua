-- Deletes keys of others that nobody has used for long, as long as a right of ours is held.
--
-- The server runs this script alone, so nobody uses a key between the check and its deletion. What
-- is asked of a key here (OBJECT, PTTL, MEMORY) does not count as its use. Keys of LockBay, of
-- every namespace, are passed over. The values of deleted keys are freed in the background.
--
-- KEYS  1  <tag>meta, for its tag; the layout of keys stands in redis_commit.lua
--       2… keys of others
-- ARGV  1, 2 kind and id of the record that grants the right, and 3 the revision that granted it
--       4  for how many seconds a key must not have been used
--       5  "1" if a key with an expiry may go too, where that is farther off than those seconds
--       6  "1" to delete nothing
-- Reply {0, cleaned, expiring, young, bytes}
--       {1}          nothing was deleted: the right is gone
--       {2, reason}  nothing was deleted: effects are halted
--       {3, reason}  nothing was deleted: the server does not tell how long keys are idle

local tag = string.sub(KEYS[1], 1, -5)
local call = redis.call

local halted = call('HGET', KEYS[1], 'halted')
if halted then
  return {2, halted}
end
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local right = call('HMGET', tag .. 'r:' .. ARGV[1] .. '/' .. ARGV[2], 'r', 'd')
if right[1] ~= ARGV[3] or (right[2] ~= '' and tonumber(right[2]) <= now) then
  return {1}
end

-- As RedisStore::open takes namespaces: 1 to 64 bytes without braces.
local function is_ours(key)
  local namespace = string.match(string.sub(key, 1, 96), '^{([^{}]+):%d+}:')
  return namespace and #namespace <= 64
end

local least_idle, expiring_too, dry_run = tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6] == '1'
local cleaned, expiring, young, bytes = 0, 0, 0, 0

for at = 2, #KEYS do
  local key = KEYS[at]
  local idle = not is_ours(key) and redis.pcall('OBJECT', 'IDLETIME', key)
  if type(idle) == 'table' then
    if string.find(idle.err, 'LFU', 1, true) then
      return {3, idle.err}
    end
    return idle
  elseif idle then
    local left = call('PTTL', key)
    if left >= 0 and not (expiring_too and left > least_idle * 1000) then
      expiring = expiring + 1
    elseif idle < least_idle then
      young = young + 1
    else
      bytes = bytes + (call('MEMORY', 'USAGE', key) or 0)
      cleaned = cleaned + 1
      if not dry_run then
        call('UNLINK', key)
      end
    end
  end
end
return {0, cleaned, expiring, young, bytes}
