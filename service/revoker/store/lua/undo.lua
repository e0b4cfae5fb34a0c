-- Before the scripts that undo a revocation: makes a request idempotent.
-- A request whose connection broke is sent again, and the first may have been carried out. Carried out twice, it would undo
-- what was revoked in between. So its result is stored for a minute, under a key of its own: the last of KEYS before the four
-- of every script.

local result_key = KEYS[#KEYS - 4]

-- The result of this request if it was carried out before, else nil.
local function result_before()
  return redis.call('GET', result_key) or nil
end

local function store_result(result)
  redis.call('SET', result_key, result, 'PX', 60000)
end
