--!df flags=allow-undeclared-keys
-- Tries every command that the other scripts use, in every form, on keys that nothing else uses and that expire soon.
-- KEYS: one of them; where there is no cluster, another one in another slot.
-- Returns: each refused command, followed by the server's error.
local unpack = unpack or table.unpack
local key, refused = KEYS[1], {}

local function try(command, ...)
  local reply = redis.pcall(command, ...)
  local error = type(reply) == 'table' and reply.err
  -- WRONGTYPE: only because a command before it was refused.
  if error and not string.find(error, 'WRONGTYPE', 1, true) then
    refused[#refused + 1], refused[#refused + 2] = command, error
  end
  return not error and reply
end

local function try_on_key(command, ...)
  return try(command, key, ...)
end

local time = try('TIME')
local soon = time and string.format('%.0f', time[1] * 1000 + 10000)
try_on_key('SET', '1')
try_on_key('SET', '1', 'PX', '10000')
if soon then
  try_on_key('SET', '1', 'PXAT', soon)
  try_on_key('SET', '1', 'NX', 'PXAT', soon)
  -- who made a revocation is stored under a key that a script is not given
  try('SET', key .. ':audit', '1', 'PXAT', soon)
  try('DEL', key .. ':audit')
end
try_on_key('GET')
try('MGET', unpack(KEYS))
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
try_on_key('XTRIM', 'MAXLEN', '~', '1', 'LIMIT', '1000')
try_on_key('XTRIM', 'MINID', '~', '1', 'LIMIT', '1000')
try_on_key('DEL')
return refused
