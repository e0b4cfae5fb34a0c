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

core.register_action("ask_revoker", { "http-req" }, function(txn)
  txn:set_var("txn.verdict", "refused")
  local question = { ["x-revoker-key"] = { key } }
  local authorization = txn.http:req_get_headers()["authorization"]
  if authorization then
    local values = {}
    for i = 0, #authorization do values[#values + 1] = authorization[i] end
    question["authorization"] = values
  end
  local require = txn:get_var("txn.require")
  if require then question["x-revoker-require"] = { require } end

  local answer = core.httpclient():get { url = url, headers = question, timeout = TIMEOUT_MS }
  local verdict = answer and VERDICTS[answer.status] or "refused"
  if verdict == "200" or verdict == "401" or verdict == "403" then
    local headers = answer.headers
    txn:set_var("txn.challenge", first(headers, "www-authenticate"))
    txn:set_var("txn.subject", first(headers, "x-auth-subject"))
    txn:set_var("txn.session", first(headers, "x-auth-session"))
    txn:set_var("txn.client", first(headers, "x-auth-client"))
    txn:set_var("txn.scope", first(headers, "x-auth-scope"))
  end
  txn:set_var("txn.verdict", verdict)
end)
