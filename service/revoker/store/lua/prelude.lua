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

-- The list of writers, ' id count id count', with another count of one of them; and whether it was in the list.
local function with_writer(list, id, share)
  local entry, count = ' ' .. id .. ' ', string.format('%.0f', share)
  local first, last = string.find(list, entry, 1, true)
  if not first then return list .. entry .. count, false end
  local rest = string.find(list, ' ', last + 1, true)
  return string.sub(list, 1, last) .. count .. (rest and string.sub(list, rest) or ''), true
end

-- Sets the share of this process, which expires after a day, and its count in the list of writers. Returns seq, which is raised
-- by `more`; by the whole share if the list has no longer had it, so that seq less all counts in the list never decreases.
local function set_share(share, more)
  local n = #KEYS
  local list, listed = with_writer(redis.call('GET', KEYS[n - 1]) or '', string.match(KEYS[n - 2], '[^:]*$'), share)
  redis.call('SET', KEYS[n - 2], string.format('%.0f', share), 'PX', 86400000)
  redis.call('SET', KEYS[n - 1], list)
  return redis.call('INCRBY', KEYS[n - 3], string.format('%.0f', listed and more or share))
end

-- Counts the stored revocations; returns seq and the share. A write to a data set that lacks what the writer knew is not
-- counted, nor one during a repair: the numbers would rise to values that processes have read before, and hide from them what
-- is missing. The writer detects it by the reply, and writes again.
local function count()
  local n = #KEYS
  local seq, share = number(KEYS[n - 3]), number(KEYS[n - 2])
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
