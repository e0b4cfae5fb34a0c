-- Sets the epoch where it still is what the caller read.
-- KEYS: seq, share, epoch.
-- ARGV: the epoch as read ('' for none), new id, latest time known to the caller (ms), finding,
--       cutoff in ms, or 'now' for the time of noticing.
-- Returns: 1 or 0, the epoch that stands, seq, share.
local epoch = KEYS[#KEYS]
local stood = redis.call('GET', epoch) or ''
local set = 0
if stood == ARGV[1] then
  local noticed = math.max(now_ms(), tonumber(ARGV[3]))
  local cutoff = ARGV[5] == 'now' and noticed or tonumber(ARGV[5])
  stood = table.concat({ARGV[2], digits(noticed), digits(cutoff), ARGV[4]}, ' ')
  redis.call('SET', epoch, stood)
  set = 1
end
return {set, stood, tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(redis.call('GET', KEYS[2]) or 0)}
