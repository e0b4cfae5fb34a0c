-- Lists a jti. Repeating it keeps the first time and only ever lengthens the life.
-- KEYS: jti entry, seq, share, epoch.
-- ARGV: ms until which it is kept ('' where exp is unknown), ms for which it is kept then, ms of revocation where it is put
--       back ('' for now), ms of the present before which it is refused: its exp would be too far ahead ('' or none: never).
-- Returns: ms of revocation ('ahead' where it was refused), ms until which it is kept, seq, share, epoch.
local now, earliest = now_ms(), tonumber(ARGV[4])
if earliest and now < earliest then return {'ahead'} end
local till = tonumber(ARGV[1]) or now + tonumber(ARGV[2])
local stood = redis.call('GET', KEYS[1])
local value = stood or digits(tonumber(ARGV[3]) or now)
put(KEYS[1], value, till, now)
return answer(value, digits(till))
