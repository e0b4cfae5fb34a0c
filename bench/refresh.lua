-- Refreshes sessions: each answer's refresh token is sent once more later; prints what happened as wrk.lua does.
-- Arguments: file of refresh tokens, path; the others of wrk.lua are not used.

local tokens, first, last = {}, 1, 0

local function add(token)
  last = last + 1
  tokens[last] = token
end

function init(args)
  wrk.method = "POST"
  wrk.path = args[2]
  wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
  for token in io.lines(args[1]) do add(token) end
end

function request()
  local token = tokens[first]
  tokens[first] = nil
  first = first + 1
  return wrk.format(nil, nil, nil, "grant_type=refresh_token&refresh_token=" .. token)
end

function response(_, _, body)
  local token = string.match(body, '"refresh_token":"([^"]+)"')
  if token then add(token) end  -- a failure is counted by its status, and its session sent no more
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"failed":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
