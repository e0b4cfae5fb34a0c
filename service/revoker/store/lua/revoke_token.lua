-- Adds a jti to the denylist. A repetition keeps the time of the first revocation, and an expiry that is later.
-- KEYS: jti entry, seq, share, list of writers, epoch.
-- ARGV:
--   1 expiry of the entry (ms; '' where exp is unknown).
--   2 how long it is stored where exp is unknown (ms).
--   3 time of the revocation where it is restored (ms; '' for now).
--   4 refused before this time (ms; '' or none: never), because the token's exp would be too far ahead.
--   5 who revokes it ('' or none: that is not stored).
-- Returns: the time of the revocation, the expiry of the entry (ms); or 'ahead'.
local now, earliest = now_ms(), tonumber(ARGV[4])
if earliest and now < earliest then return {'ahead'} end
local expiry = tonumber(ARGV[1]) or now + tonumber(ARGV[2])
local stored = redis.call('GET', KEYS[1])
local value = stored or digits(tonumber(ARGV[3]) or now)
local written = put(KEYS[1], value, expiry, now)
if not stored then write_audit(KEYS[1], tonumber(value), tonumber(value), ARGV[5], written) end
return answer(value, digits(expiry))
