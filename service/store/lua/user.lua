-- Stands before the scripts that change what is kept for one user.
-- The record is a JSON object of hard, soft, sid, blocked, last (ms) and the reasons.

local function read_user(key)
  local text = redis.call('GET', key)
  local user = text and cjson.decode(text) or {}
  user.hard = user.hard or 0
  user.soft = user.soft or 0
  user.sid = user.sid or ''
  user.blocked = user.blocked or 0
  user.last = user.last or 0
  return user
end

-- The present, never before what was dated last for this user.
local function user_now(user)
  return math.max(now_ms(), user.last)
end

local function write_user(key, user, keep)
  local now = now_ms()
  local till = math.max(user.hard, user.soft, user.last) + keep
  if user.blocked > now then till = math.max(till, user.blocked + keep) end
  put(key, cjson.encode(user), till, now)
end
