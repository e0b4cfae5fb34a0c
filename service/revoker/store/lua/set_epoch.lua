-- Sets the epoch if it is still the one that the caller read.
-- KEYS: seq, share, epoch.
-- ARGV: the epoch as read ('' for none), new id, latest time that the caller has read (ms), finding, cutoff (ms, or 'now').
-- Returns: 1 or 0, the epoch in the store, seq, share.
local epoch = KEYS[#KEYS]
local stored = redis.call('GET', epoch) or ''
local set = 0
if stored == ARGV[1] then
  local noticed = math.max(now_ms(), tonumber(ARGV[3]))
  local cutoff = ARGV[5] == 'now' and noticed or tonumber(ARGV[5])
  stored = table.concat({ARGV[2], digits(noticed), digits(cutoff), ARGV[4]}, ' ')
  redis.call('SET', epoch, stored)
  set = 1
end
return {set, stored, tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(redis.call('GET', KEYS[2]) or 0)}
