-- Undoes the revocation of a signing key.
-- It is added to the set of what was lifted, so that no process takes it for a revocation that has vanished.
-- KEYS: the issuer's revoked keys, lifted, result of the request, seq, share, list of writers, epoch.
-- ARGV: kid, its place in a key, 'again' or none.
-- Returns: 1 if it was revoked, else 0.
undone(KEYS[1], 'key ' .. ARGV[1])
local before = result_before(again)
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
redis.call('DEL', audit_key(KEYS[1], ARGV[2]))
store_result(revoked)
if revoked == 0 then return answer(revoked) end
local reply, now = answer(revoked), now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, digits(now - 3600000))
redis.call('ZADD', KEYS[2], digits(now), digits(reply[2][1]) .. ' ' .. KEYS[1] .. ' ' .. ARGV[1])
redis.call('PEXPIRE', KEYS[2], 3600000)
return reply
