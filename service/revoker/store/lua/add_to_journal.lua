-- Journals what scripts in other slots have changed, or marks the beginning of the journal by an entry without a key.
-- KEYS: seq, share, list of writers, epoch, journal.
-- ARGV: of each change the key, its value, when that expires (ms), and what was undone.
-- Returns: the number of changes.
for i = 1, #ARGV, 4 do changed(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
return journaled({#ARGV / 4}, true)
