-- Reads events after a cursor (EVT-9).
-- KEYS: 1 session hash, 2 event log
-- ARGV: 1 log, 2 after, 3 max events, 4 max bytes, 5 the client's stream if it is not the main one
-- Reply: 0 not found; {epoch, last seq, first seq, holder or nil, id, body, id, body, ...}; of events of other streams the
--   body is nil
local stream, view = ARGV[1], ARGV[5]
local h = redis.call('HMGET', KEYS[1], 'epoch', 's:' .. stream .. ':seq', 's:' .. stream .. ':first',
  's:' .. stream .. ':bytes', 'a:' .. (view == '' and stream or view))
if not h[1] then return 0 end
local last, first = tonumber(h[2] or 0), tonumber(h[3] or 1)
local after, max_events, max_bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local out = { h[1], last, first, h[5] and string.match(h[5], '%S+$') or false }
if after >= last or max_events <= 0 then return out end

-- Small steps of about the byte budget, so that a page of large events does not pull the whole log into the script.
local average = math.max(1, tonumber(h[4] or 0) / (last - first + 1))
local step = math.max(1, math.min(256, math.ceil(max_bytes / average)))
local from, count, bytes = after + 1, 0, 0
repeat
  local entries = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', math.min(step, max_events - count))
  for _, entry in ipairs(entries) do
    local e = entry[2]
    local of = e[3] == 'v' and e[4] or e[5] == 'v' and e[6] or ''
    local body = of == view and e[2] or false
    out[#out + 1] = entry[1]
    out[#out + 1] = body
    count = count + 1
    if body then bytes = bytes + #body end
    if bytes >= max_bytes then return out end
    from = '(' .. entry[1]
  end
until #entries < step or count >= max_events
-- The log itself is gone (evicted, or deleted by hand): nothing is kept, and that must be said (EVT-6).
if count == 0 and redis.call('XLEN', KEYS[2]) == 0 then out[3] = last + 1 end
return out
