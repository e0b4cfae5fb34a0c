-- Tries every command that the other scripts use, on a key that nothing else uses and that expires soon.
-- KEYS: that key.
-- Returns: each refused command, followed by the server's error.
local key, refused = KEYS[1], {}

local function try(command, ...)
  local reply = redis.pcall(command, ...)
  local error = type(reply) == 'table' and reply.err
  -- WRONGTYPE: only because a command before it was refused.
  if error and not string.find(error, 'WRONGTYPE', 1, true) then
    refused[#refused + 1], refused[#refused + 2] = command, error
  end
end

local function try_on_key(command, ...)
  try(command, key, ...)
end

try('TIME')
try_on_key('SET', '1', 'PX', '10000')
try_on_key('GET')
try_on_key('MGET')
try_on_key('EXISTS')
try_on_key('INCRBY', '1')
try_on_key('PTTL')
try_on_key('PEXPIREAT', '99999999999999')
try_on_key('PEXPIRE', '10000')
try_on_key('DEL')
try_on_key('HSET', 'field', '1')
try_on_key('HGET', 'field')
try_on_key('HGETALL')
try_on_key('HDEL', 'field')
try_on_key('ZADD', '1', 'member')
try_on_key('ZSCORE', 'member')
try_on_key('ZCARD')
try_on_key('ZRANGEBYSCORE', '0', '+inf')
try_on_key('ZREM', 'member')
try_on_key('ZREMRANGEBYSCORE', '0', '1')
try_on_key('DEL')
try_on_key('XADD', '*', 'field', '1')
try_on_key('XLEN')
try_on_key('XTRIM', 'MAXLEN', '1')
try_on_key('DEL')
return refused
