-- What is put back is not counted: numbers that rise again would hide from other processes, and from this one, that data is
-- missing, until another epoch says it.
count = function()
  local n = #KEYS
  return tonumber(redis.call('GET', KEYS[n - 2]) or 0), tonumber(redis.call('GET', KEYS[n - 1]) or 0)
end
