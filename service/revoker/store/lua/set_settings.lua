-- Sets what the store remembers of the issuers, if it is still what the caller read.
-- KEYS: settings, seq, share, list of writers, epoch.
-- ARGV: the value as read ('' for none), the new value.
-- Returns: 1 or 0.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return {0} end
redis.call('SET', KEYS[1], ARGV[2])
changed(KEYS[1], ARGV[2], '')
return journaled({1}, true)
