-- Applies a batch of independent commits in one step.
--
-- The server runs this script alone, so nothing divides a commit. Each commit has its own guards
-- and its own answer; one that conflicts leaves the others as they are. What the commits do to
-- the sorted sets, the counter and the answers is gathered and written once at the end. Redis
-- refuses a script (READONLY, OOM, MISCONF) at its first write or not at all, so a refused batch
-- has changed nothing.
--
-- KEYS  1  <tag>meta: a hash of generation, revision, accepted (0 or 1), halted (why, if it is).
--          All other keys start with the same <tag>, "{namespace:partition}:", hence lie in the
--          same slot of a cluster:
--            r:<kind>/<id>  a record: v value, r revision, d deadline in µs ("" if none)
--            k:<kind>       its ids in order (sorted set of equal scores); those of a kind of
--                           index entries have no records
--            d:<kind>       ids by deadline
--            op:<client>    slot -> "sequence:revision:now" of the last commit, or
--                           "sequence:sending:conflict"; "s" -> the highest sending that left an
--                           answer; expires an hour after its last refresh
--            h:<kind>/<id>  channels of hints
-- ARGV  1  the generation that the client expects, or "" if it has seen none
--       2  the highest revision that it has seen
--       3  a random generation, in case the store turns out to be empty
--       4  the client, and 5 the number of this sending, which grows within the client
--       6  sequences up to this one were sent before with unknown outcome: their conflicts are
--          remembered too, or a copy that is still on its way could be applied after the answer
--       7  "1" to refresh the expiry of the client's answers
--       8, 9 slot and sequence of the last commit that the client knows to be applied, or 0 and 0
--       10 the commits, packed one behind the other as HEAD, GUARD, WRITE and HINT below say
--       11… the values of their writes, in the order of the writes; not packed, because what
--            becomes a string of Lua is hashed byte by byte
--
-- Reply {0, now, revision, generation, accepted, answers…} where an answer is
--          revision                committed
--          {place, v, r, d}        the guard at this place (from 0) did not hold; r is "" if
--                                  there is no record
--          {-1, revision, now}     committed before, with this answer
--          {-2}                    a straggler: answered or given up before it arrived
--       {1, now, revision, reason}      nothing was applied: acknowledged data is lost, or
--                                       effects were halted before
--       {2, now, revision, generation}  nothing was applied: an operator accepted the store as
--                                       it is; adopt this generation and send again

local meta = KEYS[1]
local tag = string.sub(meta, 1, -5)
local call = redis.call
local format = string.format

local function text(number)
  return format('%d', number)
end

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local now_text = text(now)

-- What stands in ARGV 10. Lengths come before their strings, and all numbers have the lowest byte
-- first.

-- 1 if the commit may have been sent before, slot, sequence, how many guards, writes and hints
-- follow, how many values belong to the writes, and how many bytes are left of the commit.
local HEAD = '<BBc0Bc0I4I4I4I4I4'
-- 1 absent, 2 revision is, 3 lapsed, 4 held; kind, id, and the revision as it stands in records.
local GUARD = '<BBc0Hc0Bc0'
-- 1 put a value, 2 touch, 3 delete, 4 mark, 5 append a value to a log as a line, 6 unmark; kind,
-- id, and the time to live in µs or -1.
local WRITE = '<BBc0Hc0i8'
-- Kind and id.
local HINT = '<Bc0Hc0'
local read = struct.unpack

-- The store's standing, against what the client has seen of it.

local standing = call('HMGET', meta, 'generation', 'revision', 'accepted', 'halted')
local generation, accepted, halted = standing[1], standing[3] == '1', standing[4]
local last = tonumber(standing[2] or 0)
local expected, floor = ARGV[1], tonumber(ARGV[2])
local answers_key = tag .. 'op:' .. ARGV[4]
local answered = call('HMGET', answers_key, 's', ARGV[8])

local lost
if not generation then
  generation = ARGV[3]
  call('HSET', meta, 'generation', generation, 'revision', '0', 'accepted', '0')
  if expected ~= '' then
    lost = 'it was emptied: generation was ' .. expected
  end
elseif expected ~= '' and generation ~= expected and not accepted then
  lost = 'it was emptied or replaced: generation was ' .. expected .. ', is ' .. generation
elseif expected ~= '' and last < floor then
  lost = 'it went back from revision ' .. text(floor) .. ' to ' .. text(last)
elseif generation == expected and ARGV[9] ~= '0' then
  -- Later commits of others may have covered a loss; our own slot still tells. A slot that is not
  -- there proves nothing: it may never have been used, or have expired.
  local seen = answered[2]
  if seen and tonumber(string.match(seen, '^%d+')) < tonumber(ARGV[9]) then
    lost = 'it no longer knows a commit that it had acknowledged'
  end
end
if lost then
  call('HSETNX', meta, 'halted', lost)
  if last < floor then
    call('HSET', meta, 'revision', text(floor))
  end
end
if lost or halted then
  return {1, now, last, lost or halted}
end
if expected ~= '' and generation ~= expected then
  return {2, now, last, generation}
end

-- A commit is looked for among the answers only where it can be there: it may have been sent
-- before, or a later sending has overtaken this one. The client calls a commit new in no sending
-- but the one with the lowest number of all that carry it.

local sending, doubtful = tonumber(ARGV[5]), tonumber(ARGV[6])
local newest = tonumber(answered[1] or 0)
local overtaken = sending <= newest
local refresh = ARGV[7] == '1' or not answered[1]

-- One commit. Sets are gathered as ids[kind][id] = true or false, deadlines[kind][id] = µs or
-- false, answers[slot] = text, and logs[kind][id] = {text, text, …, bytes = …, last = number}.

local ids, deadlines, answers, channels, logs = {}, {}, {}, {}, {}
local longest = 0 -- bytes of the longest log

-- A record is often guarded and then written.
local prefixes, last_kind, last_id, last_key = {}, nil, nil, nil
local function record_key(kind, id)
  if id ~= last_id or kind ~= last_kind then
    local prefix = prefixes[kind]
    if not prefix then
      prefix = tag .. 'r:' .. kind .. '/'
      prefixes[kind] = prefix
    end
    last_kind, last_id, last_key = kind, id, prefix .. id
  end
  return last_key
end

local function gather(set, kind, id, what)
  local members = set[kind]
  if not members then
    members = {}
    set[kind] = members
  end
  members[id] = what
end

local function holds(guard, revision, there, deadline)
  if guard == 1 then
    return not there
  elseif guard == 2 then
    return there == revision
  end
  local lapsed = there and deadline ~= '' and tonumber(deadline) <= now
  if guard == 3 then
    return not there or lapsed
  end
  return there == revision and not lapsed
end

-- Lines stand in records behind their log, those of a batch together, until they come to 512 KiB.
local function append(kind, id, line)
  local lines = logs[kind] and logs[kind][id]
  if not lines then
    lines = {bytes = 0}
    gather(logs, kind, id, lines)
  end
  local at = #lines
  -- Not by a format, because %s would end at a zero byte.
  lines[at + 1], lines[at + 2], lines[at + 3] = format('%016x ', last), line, '\n'
  lines.bytes, lines.last = lines.bytes + 18 + #line, last
  longest = math.max(longest, lines.bytes)
end

-- Writes the lines of logs that come to so many bytes. The lines of a commit are not parted.
local function write_lines(least)
  for kind, found in pairs(logs) do
    for id, lines in pairs(found) do
      if lines.bytes >= least then
        local behind = id .. '/' .. format('%016x', lines.last)
        local key, revision = record_key(kind, behind), text(lines.last)
        call('HSET', key, 'v', table.concat(lines), 'r', revision, 'd', '')
        gather(ids, kind, behind, true)
        found[id] = nil
      end
    end
  end
end

local function write(what, kind, id, value, ttl, revision)
  if what == 5 then
    return append(kind, id, value)
  elseif what == 4 or what == 6 then
    return gather(ids, kind, id, what == 4)
  end
  local key = record_key(kind, id)
  local deadline = ''
  if ttl >= 0 then
    deadline = text(math.min(now + ttl, 9007199254740991))
  end
  if what == 1 then
    call('HSET', key, 'v', value, 'r', revision, 'd', deadline)
    gather(ids, kind, id, true)
    gather(deadlines, kind, id, ttl >= 0 and deadline)
  elseif what == 2 then
    if call('EXISTS', key) == 1 then
      call('HSET', key, 'd', deadline)
      gather(deadlines, kind, id, deadline)
    end
  else
    call('DEL', key)
    gather(ids, kind, id, false)
    gather(deadlines, kind, id, false)
  end
end

-- The answer to a commit that was applied or refused before, by what its slot holds.
local function repeated(sequence, seen)
  local last_sequence, number, moment = string.match(seen, '^(%d+):(%d+):(%w+)$')
  if tonumber(last_sequence) > tonumber(sequence) then
    return {-2}
  elseif last_sequence == sequence then
    if moment ~= 'conflict' then
      return {-1, tonumber(number), tonumber(moment)}
    elseif tonumber(number) > sending then
      return {-2}
    end
  end
end

-- What is there in place of what a guard asks for.
local function conflict(place, key, slot, sequence)
  if tonumber(sequence) <= doubtful then
    answers[slot] = sequence .. ':' .. text(sending) .. ':conflict'
  end
  local found = call('HMGET', key, 'v', 'r', 'd')
  return {place, found[1] or '', found[2] or '', found[3] or ''}
end

-- Its guards stand at this place of ARGV 10, and its values in ARGV behind `value`.
local function apply(again, slot, sequence, guards, writes, hints, at, value)
  local seen = answers[slot]
  if not seen and (again == 1 or overtaken) then
    seen = call('HGET', answers_key, slot)
  end
  local answer = seen and repeated(sequence, seen)
  if answer then
    return answer
  end
  for place = 0, guards - 1 do
    local guard, kind, id, revision, there, deadline
    guard, kind, id, revision, at = read(GUARD, ARGV[10], at)
    local key = record_key(kind, id)
    if guard <= 2 then
      there = call('HGET', key, 'r')
    else
      local found = call('HMGET', key, 'r', 'd')
      there, deadline = found[1], found[2]
    end
    if not holds(guard, revision, there, deadline) then
      return conflict(place, key, slot, sequence)
    end
  end
  last = math.max(last + 1, now)
  local revision = text(last)
  for _ = 1, writes do
    local what, kind, id, ttl
    what, kind, id, ttl, at = read(WRITE, ARGV[10], at)
    if what == 1 or what == 5 then
      value = value + 1
    end
    write(what, kind, id, ARGV[value], ttl, revision)
  end
  if longest >= 524288 then
    write_lines(524288)
    longest = 0
  end
  for _ = 1, hints do
    local kind, id
    kind, id, at = read(HINT, ARGV[10], at)
    channels[#channels + 1] = tag .. 'h:' .. kind .. '/' .. id
  end
  answers[slot] = sequence .. ':' .. revision .. ':' .. now_text
  return last
end

local reply = {0, now, 0, generation, accepted and 1 or 0}
local before = last
local at, value, size = 1, 10, #(ARGV[10] or '')
while at <= size do
  local again, slot, sequence, guards, writes, hints, values, bytes, from =
    read(HEAD, ARGV[10], at)
  reply[#reply + 1] = apply(again, slot, sequence, guards, writes, hints, from, value)
  at, value = from + bytes, value + values
end
reply[3] = last

-- What was gathered, in pieces that fit on Lua's stack.

local function send(command, key, arguments)
  for from = 1, #arguments, 4000 do
    call(command, key, unpack(arguments, from, math.min(from + 3999, #arguments)))
  end
end

local function settle(set, name)
  for kind, members in pairs(set) do
    local added, removed = {}, {}
    for id, what in pairs(members) do
      if what then
        added[#added + 1] = what == true and '0' or what
        added[#added + 1] = id
      else
        removed[#removed + 1] = id
      end
    end
    send('ZADD', tag .. name .. kind, added)
    send('ZREM', tag .. name .. kind, removed)
  end
end

write_lines(0)
settle(ids, 'k:')
settle(deadlines, 'd:')
local remembered = {}
for slot, answer in pairs(answers) do
  remembered[#remembered + 1] = slot
  remembered[#remembered + 1] = answer
end
if #remembered > 0 then
  remembered[#remembered + 1] = 's'
  remembered[#remembered + 1] = text(math.max(sending, newest))
end
send('HSET', answers_key, remembered)
if refresh then
  call('EXPIRE', answers_key, 3600)
end
if last > before then
  call('HSET', meta, 'revision', text(last))
end

-- Hints go last, and one that may not be published is no error: whoever waits also polls.

for _, channel in ipairs(channels) do
  redis.pcall('PUBLISH', channel, '')
end
return reply
