-- Adds up what records and index entries occupy. Writes nothing.
--
-- A record is measured by the server. What its ids take in the sorted sets of its kind is the share
-- of one member in what the server says of the whole set.
--
-- KEYS  1  <tag>meta, for its tag; the layout of keys stands in redis_commit.lua
-- ARGV  kind, id, …
-- Reply bytes

local tag = string.sub(KEYS[1], 1, -5)
local call = redis.call

local shares = {}
local function share(set)
  if not shares[set] then
    local members = call('ZCARD', set)
    shares[set] = members > 0 and call('MEMORY', 'USAGE', set) / members or 0
  end
  return shares[set]
end

local bytes = 0
for at = 1, #ARGV, 2 do
  local kind, id = ARGV[at], ARGV[at + 1]
  local ids, deadlines = tag .. 'k:' .. kind, tag .. 'd:' .. kind
  local measured = call('MEMORY', 'USAGE', tag .. 'r:' .. kind .. '/' .. id)
  if measured then
    bytes = bytes + measured
  end
  if call('ZSCORE', ids, id) then
    bytes = bytes + share(ids)
  end
  if call('ZSCORE', deadlines, id) then
    bytes = bytes + share(deadlines)
  end
end
return bytes
