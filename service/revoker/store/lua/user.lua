-- Stands before the scripts that change what is kept for one user.
-- The record is a JSON object of hard, soft, sid, blocked, last (ms) and the reasons; what is 0 or '' is left out.
-- The index of the user's sessions holds, beside each sid by its end, '' with the start of the latest one, negated.

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

local function last_start(index)
  return -tonumber(redis.call('ZSCORE', index, '') or 0)
end

-- The present, never before what was dated last for this user.
local function user_now(user, index)
  return math.max(now_ms(), user.last, last_start(index))
end

local function write_user(key, user, keep)
  local now = now_ms()
  local till = math.max(user.hard, user.soft, user.last) + keep
  if user.blocked > now then till = math.max(till, user.blocked + keep) end
  local kept = {}
  for name, value in pairs(user) do
    if value ~= 0 and value ~= '' then kept[name] = value end
  end
  put(key, cjson.encode(kept), till, now)
end

-- Whether a user's cutoffs cover a session kept here, which began at a time (ms).
local function covered(user, sid, start)
  local cutoff = user.sid == sid and user.hard or math.max(user.hard, user.soft)
  return start <= cutoff
end
