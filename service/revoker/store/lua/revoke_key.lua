-- Revokes a signing key for good.
-- KEYS: the issuer's revoked keys, seq, share, list of writers, epoch.
-- ARGV:
--   1 kid.
--   2 reason.
--   3 time of the revocation where it is restored (ms; '' for now).
--   4 who revokes it ('' or none: that is not stored).
--   5 the place of the kid in a key.
-- Returns: the time of the first revocation (ms).
local text = redis.call('GET', KEYS[1])
local keys = text and cjson.decode(text) or {}
if not keys[ARGV[1]] then
  keys[ARGV[1]] = {tonumber(ARGV[3]) or now_ms(), ARGV[2]}
  text = cjson.encode(keys)
  redis.call('SET', KEYS[1], text)
  if ARGV[4] then write_audit(KEYS[1], keys[ARGV[1]][1], keys[ARGV[1]][1], ARGV[4], {}, ARGV[5]) end
end
changed(KEYS[1], text, '')
return answer(digits(keys[ARGV[1]][1]))
