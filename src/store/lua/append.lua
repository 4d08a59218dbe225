-- Appends events to one stream and answers requests (REQ-2, EVT-1).
-- KEYS: 1 session hash, 2 inbox, 3 request table, 4 event log
-- ARGV: 1..3 fence, 4 wake channel prefix, 5 session id, 6 stream, 7 op, 8 acked, 9 max age ms, 10 max events,
--   11 max bytes, 12 count of events, then each: id key it answers or '', body, count of set items, count of deletes,
--   set items (field, value), deletes
-- Reply: 0 not found; -1 fenced; -4 an older op than the last; 'seq seq - seq' (- : not appended)
local stream = ARGV[6]
local f_seq, f_first, f_bytes = 's:' .. stream .. ':seq', 's:' .. stream .. ':first', 's:' .. stream .. ':bytes'
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'op', 'op_result', 'ttl_ms', 'in_seq',
  'in_claimed', 'in_adopted', f_seq, f_first, f_bytes, 'a:' .. stream)
if not h[7] then return 0 end
if fenced(h) then return -1 end
local op, last_op = tonumber(ARGV[7]), tonumber(h[4] or 0)
if op == last_op then return h[5] end
if op < last_op then return -4 end

local in_claimed = tonumber(h[8])
local before, bytes = tonumber(h[10] or 0), tonumber(h[12] or 0)
local seq = before
local first = tonumber(h[11] or 1)
-- Only then can a pending request still stand in the inbox.
local inbox_may_hold_requests = h[9] or in_claimed < tonumber(h[7])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local results, changes, changed, newest = {}, {}, false, 0

local at = 13
for i = 1, tonumber(ARGV[12]) do
  local answers, body = ARGV[at], ARGV[at + 1]
  local set_end = at + 3 + 2 * tonumber(ARGV[at + 2])
  local delete_end = set_end + tonumber(ARGV[at + 3])
  local wanted = true
  if answers ~= '' then
    local state = inbox_may_hold_requests and redis.call('HGET', KEYS[3], answers)
    wanted = redis.call('HDEL', KEYS[3], answers) == 1
    local waiting = state and string.match(state, '^(%d+) 0 ')
    -- Answered without having been forwarded: nobody must forward it any more.
    if waiting then redis.call('XDEL', KEYS[2], waiting .. '-0') end
  end
  if wanted then
    seq = seq + 1
    redis.call('XADD', KEYS[4], seq .. '-0', 'b', body, 't', now)
    newest = #body
    bytes = bytes + newest
    results[i] = seq
    for j = at + 4, set_end, 2 do
      changes[ARGV[j]] = ARGV[j + 1]
      changed = true
    end
    for j = set_end + 1, delete_end do
      changes[ARGV[j]] = false
      changed = true
    end
  else
    results[i] = '-'
  end
  at = delete_end + 1
end

local result = table.concat(results, ' ')
local fields = { 'op', op, 'op_result', result }
if seq > before then
  if before == 0 then redis.call('PEXPIRE', KEYS[4], h[6], 'NX') end
  local max_events, max_bytes = tonumber(ARGV[10]), tonumber(ARGV[11])
  -- Age is looked at every 16th event: it needs the entry itself.
  local oldest = math.floor(seq / 16) > math.floor(before / 16) and now - tonumber(ARGV[9])
  local keep = first
  while keep < seq and (seq - keep >= max_events or bytes > max_bytes or oldest) do
    local entry = redis.call('XRANGE', KEYS[4], keep, keep)[1]
    if entry then
      local count_or_bytes = seq - keep >= max_events or bytes > max_bytes
      if not count_or_bytes and tonumber(entry[2][4]) >= oldest then break end
      bytes = bytes - #entry[2][2]
    end
    keep = keep + 1
  end
  if keep == seq then bytes = newest end
  if keep > first then redis.call('XTRIM', KEYS[4], 'MINID', '=', keep .. '-0') end
  if keep > first or before == 0 then
    fields[5], fields[6] = f_first, keep
  end
  local n = #fields
  fields[n + 1], fields[n + 2], fields[n + 3], fields[n + 4] = f_seq, seq, f_bytes, bytes
end
if changed then
  local deletes = {}
  for field, value in pairs(changes) do
    if value then
      fields[#fields + 1] = field
      fields[#fields + 1] = value
    else
      deletes[#deletes + 1] = field
    end
  end
  if #deletes > 0 then redis.call('HDEL', KEYS[1], unpack(deletes)) end
end
redis.call('HSET', KEYS[1], unpack(fields))
if ARGV[8] ~= '0' then ack(KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[8]), in_claimed, tonumber(h[9])) end

if seq > before and h[13] then
  local holder = string.match(h[13], '^%S*')
  if holder ~= h[1] then redis.call('PUBLISH', ARGV[4] .. holder, ARGV[5]) end
end
return result
