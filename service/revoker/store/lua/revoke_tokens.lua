-- Lists many jtis at once, each as revoke_token would.
-- KEYS: jti entries, seq, share, epoch.
-- ARGV: for each entry the ms until which it is kept (negated where exp is unknown: the ms for which it is, from now), and the
--       ms of its revocation ('' for now).
-- Returns: how many, seq, share, epoch.
local now = now_ms()
local present = digits(now)
stored = #KEYS - 3
for i = 1, stored do
  local key, till, at = KEYS[i], tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  if till < 0 then till = now - till end
  local value = at and at < now and ARGV[2 * i] or present
  if till <= now or not redis.call('SET', key, value, 'NX', 'PXAT', digits(till)) then
    put(key, redis.call('GET', key) or value, till, now)
  end
end
return answer(stored)
