-- Revokes a signing key for good.
-- KEYS: the issuer's revoked keys, seq, share, list of writers, epoch.
-- ARGV: kid, reason, time of the revocation where it is restored (ms; '' for now).
-- Returns: the time of the first revocation (ms).
local text = redis.call('GET', KEYS[1])
local keys = text and cjson.decode(text) or {}
if not keys[ARGV[1]] then
  keys[ARGV[1]] = {tonumber(ARGV[3]) or now_ms(), ARGV[2]}
  text = cjson.encode(keys)
  redis.call('SET', KEYS[1], text)
end
changed(KEYS[1], text, '')
return answer(digits(keys[ARGV[1]][1]))
