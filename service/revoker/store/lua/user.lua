-- Before the scripts that change what is stored for one user.
-- The record is a JSON object of hard, soft, sid, blocked, last (ms) and the reasons; members that are 0 or '' are left out.
-- The index of the user's sessions is a sorted set: each sid by the end of its session, and '' by the negated start of the
-- latest session.

local function user_of(text)
  local user = text and cjson.decode(text) or {}
  user.hard = user.hard or 0
  user.soft = user.soft or 0
  user.sid = user.sid or ''
  user.blocked = user.blocked or 0
  user.last = user.last or 0
  return user
end

local function read_user(key)
  return user_of(redis.call('GET', key))
end

local function latest_start(index)
  return -tonumber(redis.call('ZSCORE', index, '') or 0)
end

-- The present (ms), but not before the latest date of this user. No cutoff of the user is later than user.last.
local function user_now(user, index)
  return math.max(now_ms(), user.last, latest_start(index))
end

-- Returns what put does.
local function write_user(key, user, lifetime)
  local now = now_ms()
  local expiry = math.max(user.hard, user.soft, user.last) + lifetime
  if user.blocked > now then expiry = math.max(expiry, user.blocked + lifetime) end
  local members = {}
  for name, value in pairs(user) do
    if value ~= 0 and value ~= '' then members[name] = value end
  end
  return put(key, cjson.encode(members), expiry, now)
end

-- Whether a cutoff of the user covers a session: rules.user_cutoff.
local function user_cutoff_covers(user, sid, start)
  local cutoff = user.sid == sid and user.hard or math.max(user.hard, user.soft)
  return start <= cutoff
end
