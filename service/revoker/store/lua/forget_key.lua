-- Undoes the revocation of a signing key.
-- KEYS: the issuer's revoked keys, lifted, result of the request, seq, share, list of writers, epoch.
-- ARGV: kid.
-- Returns: 1 if it was revoked, else 0.
undone(KEYS[1], 'key ' .. ARGV[1])
local before = result_before()
if before then return answer(tonumber(before)) end
local text = redis.call('GET', KEYS[1])
local keys = text and cjson.decode(text) or {}
local revoked = keys[ARGV[1]] and 1 or 0
keys[ARGV[1]] = nil
if next(keys) then
  redis.call('SET', KEYS[1], cjson.encode(keys))
else
  redis.call('DEL', KEYS[1])
end
store_result(revoked)
return answer(revoked)
