--!df flags=allow-undeclared-keys
-- The line above is for Dragonfly: scripts build the keys of audits and sessions from others, in the same slot.
-- It runs a newer Lua, in which `unpack` may be `table.unpack`.
--
-- Common start of every script: time, counting, lifetimes, and the journal.
-- The last four KEYS of every script are seq, the share of this process in it, the list of writers, and the epoch. Where the
-- journal is in the slot of the others, it follows them, and is removed here; so is what follows the other ARGV then: how many
-- entries it keeps, and for how long (ms).
-- The last two ARGV, removed here, are what the writer last knew of seq and of its share; 0 for nothing.

local unpack = unpack or table.unpack

local journal, keep_entries, keep_ms
if string.find(KEYS[#KEYS], ':journal', -8, true) then
  journal = table.remove(KEYS)
  keep_ms = tonumber(table.remove(ARGV))
  keep_entries = tonumber(table.remove(ARGV))
end
local expected_share = tonumber(table.remove(ARGV))
local expected_seq = tonumber(table.remove(ARGV))

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- What the script has changed, in its order. Of each change: the key, its value ('' if it is gone), when that expires (ms; ''
-- for never), and what was undone ('' for nothing): 'cutoff', 'block', or 'key' and the kid.
local changes = {}

local function changed(key, value, expiry, undone)
  local n = #changes
  changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = key, value, expiry, undone or ''
end

local function undone(key, what)
  changed(key, '', '', what)
end

-- How many changes there are, roughly, between two looks at what the journal need not keep.
local trim_every = 50

-- Journals what the script has changed. The last thousand entries stay whatever their age, so that who has read everything finds
-- its position again after a quiet time. A part of what is too old or too much is removed at a time, since the server does
-- nothing else meanwhile.
local function write_journal(trims)
  for i = 1, #changes, 4 do
    local k, v, x, u = changes[i], changes[i + 1], changes[i + 2], changes[i + 3]
    redis.call('XADD', journal, '*', 'k', k, 'v', v, 'x', x, 'u', u)
  end
  if not trims and #changes < 4 * trim_every then return end
  local length = redis.call('XLEN', journal)
  if length > keep_entries then
    redis.call('XTRIM', journal, 'MAXLEN', '~', keep_entries, 'LIMIT', 1000)
  elseif length > 1000 then
    local oldest = string.format('%.0f', now_ms() - keep_ms)
    redis.call('XTRIM', journal, 'MINID', '~', oldest, 'LIMIT', math.min(length - 1000, 1000))
  end
end

-- The reply of a script that changes what verdicts depend on. What the journal must get is written to it, or else is the last
-- element of the reply, for the caller to write.
local function journaled(reply, trims)
  if #changes > 0 then
    if journal then
      write_journal(trims)
    else
      table.insert(changes, 1, 'journal')
      reply[#reply + 1] = changes
    end
  end
  return reply
end

-- How many revocations the script stores.
local revocations = 1

local function number(key)
  return tonumber(redis.call('GET', key) or 0)
end

-- The list of writers, ' id count id count', cut around the count of this process: what precedes it, the count, what follows.
-- A process that is not in the list would be its last one, with the count nil.
local function writers()
  local n = #KEYS
  local list, entry = redis.call('GET', KEYS[n - 1]) or '', ' ' .. string.match(KEYS[n - 2], '[^:]*$') .. ' '
  local _, last = string.find(list, entry, 1, true)
  if not last then return list .. entry, nil, '' end
  local rest = string.find(list, ' ', last + 1, true) or #list + 1
  return string.sub(list, 1, last), tonumber(string.sub(list, last + 1, rest - 1)), string.sub(list, rest)
end

-- The share of this process; that in the list never expires.
local function own_share()
  local _, listed = writers()
  return math.max(number(KEYS[#KEYS - 2]), listed or 0)
end

-- Sets the share of this process, which expires after a day, and its count in the list of writers. Returns seq, which is raised
-- by `more`; by the whole share if the list has no longer had it, so that seq less all counts in the list never decreases.
local function set_share(share, more)
  local n, count = #KEYS, string.format('%.0f', share)
  local before, listed, after = writers()
  redis.call('SET', KEYS[n - 2], count, 'PX', 86400000)
  redis.call('SET', KEYS[n - 1], before .. count .. after)
  return redis.call('INCRBY', KEYS[n - 3], string.format('%.0f', listed and more or share))
end

-- Counts the stored revocations; returns seq and the share. A write to a data set that lacks what the writer knew is not
-- counted, nor one during a repair: the numbers would rise to values that processes have read before, and hide from them what
-- is missing. The writer detects it by the reply, and writes again.
local function count()
  local n = #KEYS
  local seq, share = number(KEYS[n - 3]), own_share()
  local repairing = string.find(redis.call('GET', KEYS[n]) or '', ' repairing', 1, true)
  if seq < expected_seq or share < expected_share or repairing then return seq, share end
  share = share + revocations
  return set_share(share, revocations), share
end

-- What a process must know of the data set that a script has met: {seq, share, list of writers, epoch}.
local function numbers(seq, share)
  return {seq, share, redis.call('GET', KEYS[#KEYS - 1]) or '', redis.call('GET', KEYS[#KEYS]) or ''}
end

-- The reply of a script that revokes: its values, and at the end the numbers of the data set that it wrote to.
local function answer(...)
  local seq, share = count()
  local reply = {...}
  reply[#reply + 1] = numbers(seq, share)
  return journaled(reply, seq % trim_every == 0)
end

-- All digits of a whole number; tostring rounds those with more than 14.
local function digits(n)
  return string.format('%.0f', n)
end

-- Writes a value with an expiry time (ms), and journals it. A later expiry of the key is kept; a value that would expire at once
-- is not written. Returns the arguments with which SET gives another key the same expiry; nil if nothing is written.
local function put(key, value, expiry, now)
  local left = redis.call('PTTL', key)
  if left == -1 then
    redis.call('SET', key, value)
    changed(key, value, '')
    return {}
  end
  if left > 0 and now + left > expiry then expiry = now + left end
  if expiry > now then
    redis.call('SET', key, value, 'PXAT', digits(expiry))
    changed(key, value, digits(expiry))
    return {'PXAT', digits(expiry)}
  end
end

-- The key that says who made a revocation, beside that and in the same slot: store.keys.Keys.audit.
-- of: Which of the revocations that share a key; nil if it has one.
local function audit_key(key, of)
  local user, rest = string.match(key, '^([^:]*:{[^}]*}):(.*)$')
  local audit = user and user .. ':audit:' .. rest or string.match(key, '^[^:]*') .. ':audit:{' .. key .. '}'
  return of and audit .. ':' .. of or audit
end

-- Stores who made a revocation. Verdicts never read it.
-- key: The revocation's.
-- made: When it was made (ms).
-- at: The time of the revocation (ms). By that a reader finds that this is about the present one.
-- text: Who, as store.audit writes it; '' or nil if nobody is named.
-- expiry: As put returned it.
-- of: As of audit_key.
local function write_audit(key, made, at, text, expiry, of)
  if expiry and text and text ~= '' then
    redis.call('SET', audit_key(key, of), digits(made) .. ' ' .. digits(at) .. ' ' .. text, unpack(expiry))
  end
end
