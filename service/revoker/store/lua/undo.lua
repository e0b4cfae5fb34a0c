-- Before the scripts that undo a revocation: makes a request idempotent.
-- A request whose connection broke is sent again, and the first may have been carried out. Carried out twice, it would undo
-- what was revoked in between. So its result is stored for a minute, under a key of its own: the last of KEYS before the four
-- of every script. ARGV[3] is 'again' where the request is made again after a loss of data: by then processes have written back
-- what they remember, and what it undid may be there again.

local result_key = KEYS[#KEYS - 4]
local again = ARGV[3] == 'again'

-- The result of this request if it was carried out before, else nil. restored: Whether what it undid may be there again.
local function result_before(restored)
  return not restored and redis.call('GET', result_key) or nil
end

local function store_result(result)
  redis.call('SET', result_key, result, 'PX', 60000)
end
