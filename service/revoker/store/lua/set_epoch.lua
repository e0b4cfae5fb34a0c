-- Sets the epoch if it is still the one that the caller read.
-- KEYS: seq, share, list of writers, epoch.
-- ARGV: the epoch as read ('' for none), new id, latest time that the caller has read (ms), finding, cutoff (ms, or 'now');
--   seq and list of writers that the data set must have ('' for any).
-- Returns: 1 or 0, the numbers of the data set.
local epoch = KEYS[#KEYS]
local set = 0
local same = (redis.call('GET', epoch) or '') == ARGV[1]
local as_judged = ARGV[6] == ''
  or (number(KEYS[1]) == tonumber(ARGV[6]) and (redis.call('GET', KEYS[3]) or '') == ARGV[7])
if same and as_judged then
  local noticed = math.max(now_ms(), tonumber(ARGV[3]))
  local cutoff = ARGV[5] == 'now' and noticed or tonumber(ARGV[5])
  redis.call('SET', epoch, table.concat({ARGV[2], digits(noticed), digits(cutoff), ARGV[4]}, ' '))
  set = 1
end
return {set, numbers(number(KEYS[1]), number(KEYS[2]))}
