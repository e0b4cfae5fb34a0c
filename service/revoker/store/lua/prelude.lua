-- Common start of every script: time, counting and lifetimes.
-- The last three KEYS of every script are seq, the share of this process in it, and the epoch.
-- The last ARGV, removed here, is the writer's seq: the value that it last read; 0 for none.

local writer_seq = tonumber(table.remove(ARGV))

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- How many revocations the script stores.
local revocations = 1

-- Counts the stored revocations. The share expires a day after its last write.
-- If seq is below the writer's seq, undo the increment: the writer detects the loss and retries. Otherwise seq would rise to
-- the values that other processes have read, and hide the loss from them.
local function count()
  local n = #KEYS
  local seq = redis.call('INCRBY', KEYS[n - 2], revocations)
  if seq - revocations < writer_seq then
    return redis.call('DECRBY', KEYS[n - 2], revocations), tonumber(redis.call('GET', KEYS[n - 1]) or 0)
  end
  local share = redis.call('INCRBY', KEYS[n - 1], revocations)
  redis.call('PEXPIRE', KEYS[n - 1], 86400000)
  return seq, share
end

-- The reply of a script that revokes: its values, and at the end {seq, share, epoch} of the data set that it wrote to.
local function answer(...)
  local seq, share = count()
  local reply = {...}
  reply[#reply + 1] = {seq, share, redis.call('GET', KEYS[#KEYS]) or ''}
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
