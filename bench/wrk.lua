-- Sends the bodies of a file in turn, beginning at an offset; prints what happened as one line of JSON.
-- Arguments: file, path, Authorization, offset, Content-Type, requests a second (0: as many as are answered).
-- At a fixed rate requests leave when they are due, to the millisecond, on whichever connection is free.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds, nanoseconds; } moment;
  int clock_gettime(int clock, moment *now);
]]

local requests, last = {}, 0
local moment, due = ffi.new("moment"), 0

local function now_ms()
  ffi.C.clock_gettime(1, moment)  -- monotonic
  return tonumber(moment.seconds) * 1000 + tonumber(moment.nanoseconds) / 1e6
end

function init(args)
  wrk.method = "POST"
  wrk.path = args[2]
  wrk.headers["Content-Type"] = args[5]
  wrk.headers["Authorization"] = args[3]
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format(nil, nil, nil, body)
  end
  last = tonumber(args[4]) % #requests
  local every_ms = 1000 / tonumber(args[6])
  if every_ms < math.huge then
    delay = function()
      local now = now_ms()
      due = math.max(due + every_ms, now - 100)  -- what was missed for longer is not made up for
      return math.max(0, math.floor(due - now))
    end
  end
end

function request()
  last = last % #requests + 1
  return requests[last]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"failed":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
