-- Shared: bytes of the bodies of a session that wait for the upstream or for an answer. Requests that are not forwarded
-- have theirs in the inbox, the others in the table, as `<seq> 1 <body>`.
local function held_bytes(inbox, req)
  local bytes = 0
  for _, id in ipairs(redis.call('HKEYS', req)) do
    local state = redis.call('HSTRLEN', req, id)
    -- What stands before the body: about four bytes.
    if state > 4 then bytes = bytes + state - 4 end
  end
  -- There it is a kind, a length and the id key: three bytes at least.
  for _, seq in ipairs(redis.call('HKEYS', inbox)) do bytes = bytes + redis.call('HSTRLEN', inbox, seq) - 3 end
  return bytes
end
