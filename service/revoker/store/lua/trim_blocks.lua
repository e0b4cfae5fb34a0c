-- Removes blocks that have ended from the hash of all blocks. A block that was renewed meanwhile stays.
-- KEYS: blocks, seq, share, list of writers, epoch.
-- ARGV: tags of users.
-- Returns: how many were removed.
local now, removed = now_ms(), 0
for _, tag in ipairs(ARGV) do
  local ends = tonumber(redis.call('HGET', KEYS[1], tag) or '')
  if ends and ends <= now then removed = removed + redis.call('HDEL', KEYS[1], tag) end
end
return {removed}
