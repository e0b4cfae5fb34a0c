-- Stands before the scripts that undo a revocation.
-- A request whose connection broke is sent again, and may have been carried out before. Carried out twice it would undo what
-- was revoked in between. So the result of each request is noted for a minute, under a key of its own: the last of KEYS
-- before those that every script ends with.

local noted = KEYS[#KEYS - 3]

-- The result of this very request where it was carried out before; else nil.
local function result_before()
  return redis.call('GET', noted) or nil
end

local function note_result(result)
  redis.call('SET', noted, result, 'PX', 60000)
end
