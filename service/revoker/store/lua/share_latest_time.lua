-- Shares the latest time that any server of the store has reported. It only grows; but a time that no server can have reported is
-- replaced.
-- KEYS: latest, seq, share, list of writers, epoch.
-- ARGV: the time (ms), by how much a time may be ahead of the server's (ms), how long it is stored (ms).
-- Returns: the time in the store (ms).
local latest = tonumber(ARGV[1])
local shared = tonumber(string.match(redis.call('GET', KEYS[1]) or '', '^%d+$') or '')
if shared and shared >= latest and shared <= now_ms() + tonumber(ARGV[2]) then return {digits(shared)} end
redis.call('SET', KEYS[1], digits(latest), 'PX', ARGV[3])
return {digits(latest)}
