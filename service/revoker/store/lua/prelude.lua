-- Stands before every script: time, counting and lifetimes.
-- The last three KEYS of every script: seq, this process's share of it, epoch.
-- The last of ARGV, taken off here: seq as the writer knows it; 0 where it knows of none.

local known = tonumber(table.remove(ARGV))

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- How many revocations the script stores.
local stored = 1

-- Counts what was stored; the share outlives its last write by a day.
-- Nothing is counted where fewer are there than the writer knows of: the number would rise to what others know, and hide from
-- them that some are lost. The writer sees that it did not rise, and makes the change again once that is settled.
local function count()
  local n = #KEYS
  local seq = redis.call('INCRBY', KEYS[n - 2], stored)
  if seq - stored < known then
    return redis.call('DECRBY', KEYS[n - 2], stored), tonumber(redis.call('GET', KEYS[n - 1]) or 0)
  end
  local share = redis.call('INCRBY', KEYS[n - 1], stored)
  redis.call('PEXPIRE', KEYS[n - 1], 86400000)
  return seq, share
end

-- Every script that revokes ends its answer with what the writer must know of the data set it wrote to: one more
-- element {seq, share, epoch}.
local function answer(...)
  local seq, share = count()
  local reply = {...}
  reply[#reply + 1] = {seq, share, redis.call('GET', KEYS[#KEYS]) or ''}
  return reply
end

local function digits(n)
  return string.format('%.0f', n)
end

-- Writes a value whose key must live until a time (ms), or longer where it already does.
-- A key that would be gone at once is not written.
local function put(key, value, till, now)
  local left = redis.call('PTTL', key)
  if left == -1 then
    redis.call('SET', key, value)
    return
  end
  if left > 0 and now + left > till then till = now + left end
  if till > now then redis.call('SET', key, value, 'PXAT', digits(till)) end
end
