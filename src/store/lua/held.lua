-- Shared: bytes of the bodies of a session that wait for the upstream or for an answer. Requests that are not forwarded
-- have theirs in the inbox, the others in the table, as `<seq> 1 <body>`.
local function held_bytes(inbox, req)
  local bytes, from = 0, '-'
  for _, id in ipairs(redis.call('HKEYS', req)) do
    local state = redis.call('HSTRLEN', req, id)
    -- What stands before the body: about four bytes.
    if state > 4 then bytes = bytes + state - 4 end
  end
  -- In steps, so that no large inbox lies in the script as a whole.
  repeat
    local entries = redis.call('XRANGE', inbox, from, '+', 'COUNT', 8)
    for _, entry in ipairs(entries) do
      bytes = bytes + #entry[2][4]
      from = '(' .. entry[1]
    end
  until #entries < 8
  return bytes
end
