-- Appends events to one stream and answers requests (REQ-2, EVT-1).
-- KEYS: 1 session hash, 2 inbox, 3 request table, 4 event log
-- ARGV: 1..3 fence, 4 wake channel prefix, 5 session id, 6 stream, 7 op, 8 acked, 9 max age ms, 10 max events,
--   11 max bytes, 12 last sequence of the stream as the owner knows it, 13 the owner will know the reply's `hot`, 14 count of events, then each: id key it answers or '', the client's stream if it is not the main one, body, count of set
--   items, count of deletes,
--   set items (field, value), deletes
-- Reply: 0 not found; -1 fenced; -4 an older op than the last; -8 these are older data than the owner has seen; 'seq seq+ - seq'
--   (- : not appended; + : an answer that somebody shows who has the word of it); {that, hot}
local call = redis.call
local stream = ARGV[6]
local f_seq, f_first, f_bytes = 's:' .. stream .. ':seq', 's:' .. stream .. ':first', 's:' .. stream .. ':bytes'
local h = call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'in_seq', 'in_claimed', 'in_adopted', f_seq,
  f_first, f_bytes, 'a:' .. stream, 'op', 'in_first', 's:' .. stream .. ':gone', 'hot', 'held')
local hot = melted(h[14])
if hot then
  h[4], h[5], h[7], h[8], h[9], h[11], h[13] = hot[3], hot[3], hot[6], hot[7], hot[8], hot[10], hot[9]
end
if not h[4] then return 0 end
if fenced(h) then return -1 end
if ARGV[7] == h[11] then return hot and answered(hot) or call('HGET', KEYS[1], 'op_result') end
if h[11] and tonumber(ARGV[7]) < tonumber(h[11]) then return -4 end

local before, bytes = tonumber(h[7] or 0), tonumber(h[9] or 0)
if tonumber(ARGV[12]) > before then return -8 end
local seq = before
-- Only then can a pending request still stand in the inbox.
local inbox_may_hold_requests = h[5] ~= h[4] or h[6] ~= '0'
local now
local results, changes, newest, added, length = {}, nil, 0, 0, 0
-- Processes that were told to look, with how many heard it, and streams whose request is answered.
local told, over = {}, nil
local function tell(holder)
  local who = string.match(holder, '^%S*')
  told[who] = told[who] or call('PUBLISH', ARGV[4] .. who, ARGV[5])
  return told[who] > 0
end
-- There is something for the main stream.
local main = false
-- Nothing but what every message changes has changed.
local usual, settled = true, 0

local at = 15
for i = 1, tonumber(ARGV[14]) do
  local answers, view, body = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local set_end = at + 4 + 2 * tonumber(ARGV[at + 3])
  local delete_end = set_end + tonumber(ARGV[at + 4])
  local wanted = true
  if answers ~= '' then
    local state = inbox_may_hold_requests and call('HGET', KEYS[3], answers)
    wanted = call('HDEL', KEYS[3], answers) == 1
    if wanted then settled = settled + 1 end
    local waiting = state and string.match(state, '^(%d+) 0 ')
    -- Answered without having been forwarded: nobody must forward it any more.
    if waiting then call('HDEL', KEYS[2], waiting) end
  end
  -- An answer goes out on the main stream once, and not if its client was told an error (see disown).
  for j = at + 5, set_end, 2 do
    local moves = string.sub(ARGV[j], 1, 3) == 'mv:'
    if moves and (changes and changes[ARGV[j]] or call('HGET', KEYS[1], ARGV[j])) then wanted = false end
  end
  if wanted then
    seq = seq + 1
    local text, shown, time = string.format('%d', seq), '', ''
    -- Every 16th event has the time, which is what trimming by age looks at.
    if seq % 16 == 1 then
      if not now then
        local clock = call('TIME')
        now = clock[1] * 1000 + math.floor(clock[2] / 1000)
      end
      time = string.format('%d', now)
    end
    length = call('RPUSH', KEYS[4], text .. ' ' .. view .. ' ' .. time .. ' ' .. body)
    if view ~= '' then
      local holder = call('HGET', KEYS[1], 'a:' .. view)
      if holder then
        -- The owner, too: that its own process shows the stream it may not know, if it was not the owner at first.
        local hears = tell(holder)
        if answers ~= '' then
          if hears then shown = '+' end
          over = over or {}
          over[#over + 1] = 'a:' .. view
          over[#over + 1] = 'ac:' .. view
        end
      end
    else
      main = true
    end
    newest = #body
    added = added + newest
    results[i] = text .. shown
    usual = usual and shown == ''
    if delete_end > at + 4 then
      changes = changes or {}
      for j = at + 5, set_end, 2 do changes[ARGV[j]] = ARGV[j + 1] end
      for j = set_end + 1, delete_end do changes[ARGV[j]] = false end
    end
  else
    results[i] = '-'
    usual = false
  end
  at = delete_end + 1
end

local result = table.concat(results, ' ')
local fields = { 'op', ARGV[7], 'op_result', result }
local keep, gone = tonumber(h[8] or 1), tonumber(h[13] or 0)
if seq > before then
  local first, max_events, max_bytes = tonumber(h[8] or 1), tonumber(ARGV[10]), tonumber(ARGV[11])
  local known, is_new, had_gone = first, length == seq - before, gone
  bytes = bytes + added
  -- The log is not what it was (evicted, or deleted by hand): it begins with what is there. EVT-6
  if length < seq - first + 1 then
    first = tonumber(string.match(call('LINDEX', KEYS[4], 0), '^%d+'))
    if is_new then bytes = added end
    gone = first - 1
  end
  keep = first
  local function drop_until(kept)
    while keep < kept do
      local entry = call('LINDEX', KEYS[4], keep - first)
      if entry then
        local of, body_at = string.match(entry, '^%d+ (%S*) %d* ()')
        bytes = bytes - #entry + body_at - 1
        if of == '' then gone = keep end
      end
      keep = keep + 1
    end
  end
  -- Whole groups of 16, when the next group has begun before the limit too.
  if now then
    local oldest, group = now - tonumber(ARGV[9]), keep + 16 - (keep - 1) % 16
    while group <= seq do
      local entry = call('LINDEX', KEYS[4], group - first)
      local then_ = entry and string.match(entry, '^%d+ %S* (%d+) ')
      if then_ and tonumber(then_) >= oldest then break end
      drop_until(group)
      group = group + 16
    end
  end
  -- Some at once: the next ones then need not look.
  if seq - keep >= max_events and max_events >= 256 then max_events = max_events - 16 end
  while keep < seq and (seq - keep >= max_events or bytes > max_bytes) do drop_until(keep + 1) end
  if keep == seq then bytes = newest end
  if keep > first then call('LTRIM', KEYS[4], keep - first, -1) end
  if keep > known or before == 0 then
    fields[5], fields[6] = f_first, keep
  end
  if gone ~= had_gone then
    fields[#fields + 1] = 's:' .. stream .. ':gone'
    fields[#fields + 1] = string.format('%d', gone)
  end
  if is_new then call('PEXPIRE', KEYS[4], call('HGET', KEYS[1], 'ttl_ms'), 'NX') end
  local n = #fields
  fields[n + 1], fields[n + 2] = f_seq, string.format('%d', seq)
  fields[n + 3], fields[n + 4] = f_bytes, string.format('%d', bytes)
end
local set = {}
if changes then
  local deletes = {}
  for field, value in pairs(changes) do
    if value then
      set[#set + 1] = field
      set[#set + 1] = value
    else
      deletes[#deletes + 1] = field
    end
  end
  if #deletes > 0 then call('HDEL', KEYS[1], unpack(deletes)) end
end
-- In the inbox is nothing that an ack could take away.
local even = hot or not inbox_may_hold_requests and call('HLEN', KEYS[2]) == 0
if usual and not over and even and stream == 'g' and (hot or ARGV[13] == '1') then
  local pending = math.max(hot and hot[5] - settled or call('HLEN', KEYS[3]) - 1, 0)
  -- By these the log is found.
  if not hot then
    for i = 1, #fields do set[#set + 1] = fields[i] end
  end
  hot = table.concat({ ARGV[2], ARGV[3], h[4], hot and hot[4] or string.match(h[15] or '0', '^%d+'), string.format('%d', pending),
    string.format('%d', seq), string.format('%d', keep), string.format('%d', bytes), string.format('%d', gone), ARGV[7],
    string.format('%d', before + 1) }, ' ')
  set[#set + 1] = 'hot'
  set[#set + 1] = hot
  call('HSET', KEYS[1], unpack(set))
  if main and h[10] and string.match(h[10], '^%S*') ~= h[1] then tell(h[10]) end
  return { result, hot }
end
if hot then thaw(KEYS[1]) end
for i = 1, #fields do set[#set + 1] = fields[i] end
call('HSET', KEYS[1], unpack(set))
if ARGV[8] ~= '0' and not even then ack(KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[8]), tonumber(h[5]), h[6], h[12]) end

-- The stream of a request that has its answer is over: nobody holds it any more.
if over then call('HDEL', KEYS[1], unpack(over)) end
if main and h[10] and string.match(h[10], '^%S*') ~= h[1] then tell(h[10]) end
return result
