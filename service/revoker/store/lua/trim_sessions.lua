-- Removes sessions of a user whose start was never confirmed, and ends the oldest sessions beyond the limit.
-- The keys of sessions contain their start, so the script makes them; they lie in the slot of the declared keys.
-- KEYS: user, index, seq, share, list of writers, epoch.
-- ARGV: prefix of the user's keys, limit (0: none), how long a cutoff is stored (ms), random ends of the sids to be removed.
-- Returns: how many were removed; for each ended session its sid and the time of its cutoff (ms); the present (ms).
local prefix, limit, lifetime = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
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
    local record, start = prefix .. ':session:' .. sid, start_of(sid)
    local cutoff = redis.call('GET', prefix .. ':session-cutoff:' .. sid)
    if user_cutoff_covers(user, sid, start) or cutoff_covers(cutoff, start) then redis.call('DEL', record) end
    if redis.call('EXISTS', record) == 1 then
      live[#live + 1] = sid
    else
      redis.call('ZREM', KEYS[2], sid)
    end
  end
  table.sort(live, function(a, b) return start_of(a) < start_of(b) end)
  for i = 1, #live - limit do
    local sid = live[i]
    local record, cutoff = prefix .. ':session:' .. sid, prefix .. ':session-cutoff:' .. sid
    local at = end_session(record, cutoff, KEYS[2], sid, start_of(sid), lifetime)
    ended[#ended + 1], ended[#ended + 2] = sid, digits(at)
  end
end
if #ended == 0 then return {removed, ended, digits(now)} end
return answer(removed, ended, digits(now))
