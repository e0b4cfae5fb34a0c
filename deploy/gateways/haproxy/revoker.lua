-- Asks Revoker about the request under way and leaves the answer in variables of the transaction.
-- txn.verdict is "200", "401" or "403"; "none" where Revoker gives no verdict (its 503) or can't be reached;
-- and "refused" for everything else, which must not open any route: another status, no answer, an answer too late.

local url = assert(os.getenv("REVOKER_URL"), "REVOKER_URL is not set")
local key = assert(os.getenv("REVOKER_KEY"), "REVOKER_KEY is not set")
local TIMEOUT_MS = 500

local VERDICTS = { [200] = "200", [401] = "401", [403] = "403", [503] = "none" }

local function first(headers, name)
  local values = headers and headers[name]
  return values and values[0] or ""
end

local function all(headers, name)
  local values, found = headers[name], {}
  if not values then return nil end
  for i = 0, #values do found[#found + 1] = values[i] end
  return found
end

core.register_action("ask_revoker", { "http-req" }, function(txn)
  txn:set_var("txn.verdict", "refused")
  local headers = txn.http:req_get_headers()
  local question = { ["x-revoker-key"] = { key }, ["authorization"] = all(headers, "authorization") }
  local cookie = txn:get_var("txn.cookie")
  if cookie then
    question["x-revoker-cookie"] = { cookie }
    question["cookie"] = all(headers, "cookie")
  end
  local require = txn:get_var("txn.require")
  if require then question["x-revoker-require"] = { require } end

  local answer = core.httpclient():get { url = url, headers = question, timeout = TIMEOUT_MS }
  local verdict = answer and VERDICTS[answer.status] or "refused"
  if verdict == "200" or verdict == "401" or verdict == "403" then
    txn:set_var("txn.challenge", first(answer.headers, "www-authenticate"))
    txn:set_var("txn.subject", first(answer.headers, "x-auth-subject"))
    txn:set_var("txn.session", first(answer.headers, "x-auth-session"))
    txn:set_var("txn.client", first(answer.headers, "x-auth-client"))
    txn:set_var("txn.scope", first(answer.headers, "x-auth-scope"))
  end
  txn:set_var("txn.verdict", verdict)
end)
