-- Adds many jtis to the denylist, each as revoke_token would.
-- KEYS: jti entries, seq, share, list of writers, epoch.
-- ARGV, two for each entry: its expiry (ms; where exp is unknown, how long it is stored, negated), and the time of the
--   revocation (ms; '' for now).
-- Returns: the number of entries.
local now = now_ms()
local present = digits(now)
revocations = #KEYS - 4
for i = 1, revocations do
  local key, expiry, at = KEYS[i], tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  if expiry < 0 then expiry = now - expiry end
  local value = at and at < now and ARGV[2 * i] or present
  if expiry <= now or not redis.call('SET', key, value, 'NX', 'PXAT', digits(expiry)) then
    put(key, redis.call('GET', key) or value, expiry, now)
  else
    changed(key, value, digits(expiry))
  end
end
return answer(revocations)
