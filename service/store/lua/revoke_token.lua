-- Lists a jti. Repeating it keeps the first time and only ever lengthens the life.
-- KEYS: jti entry, seq, share, epoch.
-- ARGV: ms until which it is kept ('' where exp is unknown), ms for which it is kept then.
-- Returns: ms of revocation, seq, share, epoch.
local now = now_ms()
local till = tonumber(ARGV[1]) or now + tonumber(ARGV[2])
local stood = redis.call('GET', KEYS[1])
put(KEYS[1], stood or digits(now), till, now)
return answer(stood or digits(now))
