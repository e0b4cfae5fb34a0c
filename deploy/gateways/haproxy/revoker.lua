-- Asks Revoker about the request under way and leaves the answer in variables of the transaction:
-- txn.verdict is "200", "401", "403", or "none" where there is no verdict.

local url = assert(os.getenv("REVOKER_URL"), "REVOKER_URL is not set")
local key = assert(os.getenv("REVOKER_KEY"), "REVOKER_KEY is not set")
local TIMEOUT_MS = 500

local function first(headers, name)
  local values = headers and headers[name]
  return values and values[0] or ""
end

core.register_action("ask_revoker", { "http-req" }, function(txn)
  local asked = { ["x-revoker-key"] = { key } }
  local shown = txn.http:req_get_headers()["authorization"]
  if shown then
    local all = {}
    for i = 0, #shown do all[#all + 1] = shown[i] end
    asked["authorization"] = all
  end
  local require = txn:get_var("txn.require")
  if require then asked["x-revoker-require"] = { require } end

  local answer = core.httpclient():get { url = url, headers = asked, timeout = TIMEOUT_MS }
  local status = answer and answer.status
  if status ~= 200 and status ~= 401 and status ~= 403 then
    txn:set_var("txn.verdict", "none")
    return
  end
  local headers = answer.headers
  txn:set_var("txn.verdict", tostring(status))
  txn:set_var("txn.challenge", first(headers, "www-authenticate"))
  txn:set_var("txn.subject", first(headers, "x-auth-subject"))
  txn:set_var("txn.session", first(headers, "x-auth-session"))
  txn:set_var("txn.client", first(headers, "x-auth-client"))
  txn:set_var("txn.scope", first(headers, "x-auth-scope"))
end)
