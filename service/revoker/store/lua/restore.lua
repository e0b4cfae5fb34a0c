-- Before the scripts that write an acknowledged revocation again after a loss of data: it is not counted. A rising seq would
-- hide from other processes, and from this one, that data is missing, until another epoch is set.
count = function()
  local n = #KEYS
  return tonumber(redis.call('GET', KEYS[n - 2]) or 0), tonumber(redis.call('GET', KEYS[n - 1]) or 0)
end
