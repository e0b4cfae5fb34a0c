-- Common start of every script: time, counting and lifetimes.
-- The last four KEYS of every script are seq, the share of this process in it, the list of writers, and the epoch.
-- The last two ARGV, removed here, are what the writer last knew of seq and of its share; 0 for nothing.

local expected_share = tonumber(table.remove(ARGV))
local expected_seq = tonumber(table.remove(ARGV))

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- How many revocations the script stores.
local revocations = 1

local function number(key)
  return tonumber(redis.call('GET', key) or 0)
end

-- The list of writers, ' id count id count', cut around the count of this process: what precedes it, the count, what follows.
-- A process that is not in the list would be its last one, with the count nil.
local function writers()
  local n = #KEYS
  local list, entry = redis.call('GET', KEYS[n - 1]) or '', ' ' .. string.match(KEYS[n - 2], '[^:]*$') .. ' '
  local _, last = string.find(list, entry, 1, true)
  if not last then return list .. entry, nil, '' end
  local rest = string.find(list, ' ', last + 1, true) or #list + 1
  return string.sub(list, 1, last), tonumber(string.sub(list, last + 1, rest - 1)), string.sub(list, rest)
end

-- The share of this process; that in the list never expires.
local function own_share()
  local _, listed = writers()
  return math.max(number(KEYS[#KEYS - 2]), listed or 0)
end

-- Sets the share of this process, which expires after a day, and its count in the list of writers. Returns seq, which is raised
-- by `more`; by the whole share if the list has no longer had it, so that seq less all counts in the list never decreases.
local function set_share(share, more)
  local n, count = #KEYS, string.format('%.0f', share)
  local before, listed, after = writers()
  redis.call('SET', KEYS[n - 2], count, 'PX', 86400000)
  redis.call('SET', KEYS[n - 1], before .. count .. after)
  return redis.call('INCRBY', KEYS[n - 3], string.format('%.0f', listed and more or share))
end

-- Counts the stored revocations; returns seq and the share. A write to a data set that lacks what the writer knew is not
-- counted, nor one during a repair: the numbers would rise to values that processes have read before, and hide from them what
-- is missing. The writer detects it by the reply, and writes again.
local function count()
  local n = #KEYS
  local seq, share = number(KEYS[n - 3]), own_share()
  local repairing = string.find(redis.call('GET', KEYS[n]) or '', ' repairing', 1, true)
  if seq < expected_seq or share < expected_share or repairing then return seq, share end
  share = share + revocations
  return set_share(share, revocations), share
end

-- What a process must know of the data set that a script has met: {seq, share, list of writers, epoch}.
local function numbers(seq, share)
  return {seq, share, redis.call('GET', KEYS[#KEYS - 1]) or '', redis.call('GET', KEYS[#KEYS]) or ''}
end

-- The reply of a script that revokes: its values, and at the end the numbers of the data set that it wrote to.
local function answer(...)
  local seq, share = count()
  local reply = {...}
  reply[#reply + 1] = numbers(seq, share)
  return reply
end

-- All digits of a whole number; tostring rounds those with more than 14.
local function digits(n)
  return string.format('%.0f', n)
end

-- Writes a value with an expiry time (ms). A later expiry of the key is kept; a value that would expire at once is not written.
local function put(key, value, expiry, now)
  local left = redis.call('PTTL', key)
  if left == -1 then
    redis.call('SET', key, value)
    return
  end
  if left > 0 and now + left > expiry then expiry = now + left end
  if expiry > now then redis.call('SET', key, value, 'PXAT', digits(expiry)) end
end
