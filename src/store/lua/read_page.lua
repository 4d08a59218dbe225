-- Reads events after a cursor (EVT-9).
-- KEYS: 1 session hash, 2 event log
-- ARGV: 1 log, 2 after, 3 max events, 4 max bytes, 5 the client's stream if it is not the main one
-- Reply: 0 not found; {epoch, last seq, first seq, seq up to which events of this stream may be missing, holder or nil, id, body, id, body, ...}; of events of other streams the
--   body is nil
local stream, view = ARGV[1], ARGV[5]
local h = redis.call('HMGET', KEYS[1], 'epoch', 's:' .. stream .. ':seq', 's:' .. stream .. ':first',
  's:' .. stream .. ':bytes', 'a:' .. (view == '' and stream or view), 's:' .. stream .. ':gone', 'hot')
if not h[1] then return 0 end
local hot = stream == 'g' and melted(h[7])
if hot then h[2], h[3], h[4], h[6] = hot[6], hot[7], hot[8], hot[9] end
local last, first = tonumber(h[2] or 0), tonumber(h[3] or 1)
local after, max_events, max_bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local gone = view == '' and tonumber(h[6] or 0) or first - 1
local out = { h[1], last, first, gone, h[5] and string.match(h[5], '%S+$') or false }
if after >= last or max_events <= 0 then return out end
-- Each entry has its number, so that one is missed which is not there. If some are (evicted, or deleted by hand), the others
-- stand at most so much further ahead; and what is kept begins with what is there (EVT-6).
local there, stands_at = redis.call('LLEN', KEYS[2]), after + 1 - first
if there < last - first + 1 then
  stands_at = stands_at - (last - first + 1 - there)
  out[3] = there == 0 and last + 1 or tonumber(string.match(redis.call('LINDEX', KEYS[2], 0), '^%d+'))
  out[4] = out[3] - 1
end
stands_at = math.max(stands_at, 0)

-- Small steps of about the byte budget, so that a page of large events does not pull the whole log into the script.
local average = math.max(1, tonumber(h[4] or 0) / math.max(1, there))
local step = math.max(1, math.min(256, math.ceil(max_bytes / average)))
local count, bytes = 0, 0
while stands_at < there and count < max_events do
  local entries = redis.call('LRANGE', KEYS[2], stands_at, stands_at + math.min(step, max_events - count) - 1)
  for _, entry in ipairs(entries) do
    local seq, of, at = string.match(entry, '^(%d+) (%S*) %d* ()')
    seq = tonumber(seq)
    if seq > after then
      local body = of == view and string.sub(entry, at)
      out[#out + 1] = seq
      out[#out + 1] = body
      count = count + 1
      if body then bytes = bytes + #body end
      if bytes >= max_bytes then return out end
    end
  end
  if #entries == 0 then break end
  stands_at = stands_at + #entries
end
return out
