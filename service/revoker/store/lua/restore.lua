-- Before the scripts that write an acknowledged revocation again after a loss of data: it is not counted. Rising numbers would
-- hide from other processes, and from this one, that data is missing, until another epoch is set.
count = function()
  return number(KEYS[#KEYS - 3]), number(KEYS[#KEYS - 2])
end
