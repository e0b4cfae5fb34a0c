-- Sends the bodies of a file in turn, beginning at an offset; prints what happened as one line of JSON.
-- Arguments: file, path, Authorization, offset, Content-Type.

local requests, last = {}, 0

function init(args)
  wrk.method = "POST"
  wrk.path = args[2]
  wrk.headers["Content-Type"] = args[5]
  wrk.headers["Authorization"] = args[3]
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format(nil, nil, nil, body)
  end
  last = tonumber(args[4]) % #requests
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
