-- Removes sessions of a user whose beginning was never confirmed, and ends the oldest beyond the limit.
-- The keys of sessions carry their start, so they are made here; they lie in the slot of the declared ones.
-- KEYS: user, index, seq, share, epoch.
-- ARGV: prefix of the user's keys, limit (0: none), ms for which a cutoff is kept, random ends of the sids to be removed.
-- Returns: how many were removed, for each session ended its sid and the ms of its end, the present (ms); seq, share, epoch.
local prefix, limit, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local unconfirmed, removed, ended = {}, 0, {}
for i = 4, #ARGV do unconfirmed[ARGV[i]] = true end
if next(unconfirmed) then
  for _, sid in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], 0, '+inf')) do
    if unconfirmed[string.sub(sid, 25)] then
      redis.call('DEL', prefix .. ':session:' .. sid)
      redis.call('ZREM', KEYS[2], sid)
      removed = removed + 1
    end
  end
end

if limit > 0 and redis.call('ZCARD', KEYS[2]) - 1 > limit then
  local user, live = read_user(KEYS[1]), {}
  for _, sid in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], 0, '+inf')) do
    local record, began = prefix .. ':session:' .. sid, start_of(sid)
    local stood = redis.call('GET', prefix .. ':session-cutoff:' .. sid)
    if covered(user, sid, began) or cut(stood, began) then redis.call('DEL', record) end
    if redis.call('EXISTS', record) == 1 then
      live[#live + 1] = sid
    else
      redis.call('ZREM', KEYS[2], sid)
    end
  end
  table.sort(live, function(a, b) return start_of(a) < start_of(b) end)
  for i = 1, #live - limit do
    local oldest = live[i]
    local began = start_of(oldest)
    local at = end_session(prefix .. ':session:' .. oldest, prefix .. ':session-cutoff:' .. oldest, KEYS[2], oldest, began, keep)
    ended[#ended + 1], ended[#ended + 2] = oldest, digits(at)
  end
end
if #ended == 0 then return {removed, ended, digits(now)} end
return answer(removed, ended, digits(now))
