-- Takes processes that have ended from the list of writers, whose revocations then count as those of nobody.
-- KEYS: seq, share, list of writers, epoch.
-- ARGV: process and its count, for each.
-- Returns: 1.
local key = KEYS[#KEYS - 1]
local list = (redis.call('GET', key) or '') .. ' '
for i = 1, #ARGV, 2 do
  local entry = ' ' .. ARGV[i] .. ' ' .. ARGV[i + 1] .. ' '
  local first, last = string.find(list, entry, 1, true)
  if first then list = string.sub(list, 1, first) .. string.sub(list, last + 1) end
end
redis.call('SET', key, string.sub(list, 1, -2))
return {1}
