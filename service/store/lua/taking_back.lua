-- Stands before the scripts that undo a revocation.
-- A request whose connection broke is sent again, and may have been carried out before. Carried out twice it would undo what
-- was revoked in between. So the id of each request is noted, with its result, for about a minute, in the set of what was
-- lifted of late; there it has the number 0, by which no process forgets anything.
-- The last of ARGV, taken off here: the id of the request.

local request = table.remove(ARGV)

-- The result of this very request where it was carried out before; else nil.
local function result_before(lifted)
  for _, entry in ipairs(redis.call('ZRANGE', lifted, 0, -1)) do
    local id, result = string.match(entry, '^0 (%S+) (%d+)$')
    if id == request then return result end
  end
  return nil
end

-- Notes the result; what is an hour old by its score goes, and this is dated so that it goes in a minute.
local function note_result(lifted, result)
  local now = now_ms()
  redis.call('ZREMRANGEBYSCORE', lifted, 0, digits(now - 3600000))
  redis.call('ZADD', lifted, digits(now - 3540000), '0 ' .. request .. ' ' .. result)
  redis.call('PEXPIRE', lifted, 3600000)
end
