-- Writes a session again whose data are older than what its owner has seen: under another epoch, with what the owner knows.
-- Of what was there only that stays which the owner has never seen: messages in the inbox, under new numbers.
-- KEYS: 1 session hash, 2 inbox, 3 request table, 4 seen request ids, 5.. event logs
-- ARGV: 1..3 incarnation, generation and epoch of the older data, 4 new epoch, 5 wake channel prefix, 6 session id,
--   7 last sequence of the inbox as it was looked at, or '', 8 from here on the numbers go on, 9 lowest sequence that the
--   owner has not handled, 10 count of sequences that stay, 11 of requests that stay without their body, 12 of streams,
--   13 of fields, 14..16 owner, its incarnation and generation; then these: sequences, id keys, streams (in the order of
--   their logs), fields (name, value); then pending requests (id key, seq)
-- Reply: 0 not found; -1 fenced; 1 done; {2, last sequence, streams, seq, kind, id key, body, ...} nothing done: call again
--   with a decision on these messages, and with the logs of these streams
local call = redis.call
thaw(KEYS[1])
local h = call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'in_seq', 'in_claimed')
if not h[4] then return 0 end
-- Done before: the answer was lost.
if h[1] == ARGV[15] and h[2] == ARGV[16] and h[3] == ARGV[4] then return 1 end
-- Not `fenced`: the older data may be from before the owner's time.
if h[1] ~= ARGV[1] or h[2] ~= ARGV[2] or h[3] ~= ARGV[3] then return -1 end

local at = 17
local function take(count)
  local taken = {}
  for i = 1, tonumber(count) do taken[i] = ARGV[at + i - 1] end
  at = at + tonumber(count)
  return taken
end
local stay, unclear, known = take(ARGV[10]), take(ARGV[11]), {}
for _, stream in ipairs(take(ARGV[12])) do known[stream] = true end
local fields = take(2 * tonumber(ARGV[13]))

local kept = { service = true, transport = true, principal = true, scopes = true, rules = true, client = true,
  created_ms = true, last_active_ms = true, ttl_ms = true, owner = true, incarnation = true, generation = true }
local again, streams, gone, wake = h[4] ~= ARGV[7], {}, {}, {}
for _, field in ipairs(call('HKEYS', KEYS[1])) do
  local stream = string.match(field, '^s:(.*):seq$')
  if stream then
    streams[#streams + 1] = stream
    again = again or not known[stream]
  elseif string.sub(field, 1, 2) == 'a:' then
    wake[string.match(call('HGET', KEYS[1], field), '^%S*')] = true
  end
  -- How often the streams were attached.
  if not kept[field] and not string.match(field, '^ac:') then gone[#gone + 1] = field end
end

-- What is unclaimed, and what counts as claimed and may never have reached the owner (see claim).
local messages, held = {}, 0
local from, stays = math.min(h[5] + 1, tonumber(ARGV[9])), {}
for _, seq in ipairs(stay) do stays[seq] = true end
local function see(e)
  if again or stays[string.format('%d', e[1])] then
    messages[#messages + 1] = e
    held = held + #e[4]
  end
end
for _, e in ipairs(entries_of(KEYS[2], from, tonumber(h[4]))) do see(e) end
local table_ = call('HGETALL', KEYS[3])
for i = 1, #table_, 2 do
  local seq, forwarded, body = string.match(table_[i + 1], '^(%d+) (%d) ()')
  if forwarded == '1' and tonumber(seq) >= tonumber(ARGV[9]) then
    see({ tonumber(seq), 'q', table_[i], string.sub(table_[i + 1], body) })
  end
end
table.sort(messages, function(a, b) return a[1] < b[1] end)
if again then
  local out = { 2, h[4], streams }
  for _, e in ipairs(messages) do
    local n = #out
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = e[1], e[2], e[3], e[4]
  end
  return out
end

for _, field in ipairs(gone) do call('HDEL', KEYS[1], field) end
-- The names of POSTs stay: a try of one that was journaled is still known. REQ-6
call('UNLINK', KEYS[2], KEYS[3])
for i = 5, #KEYS do call('UNLINK', KEYS[i]) end

local base, ttl = tonumber(ARGV[8]), call('HGET', KEYS[1], 'ttl_ms')
call('HSET', KEYS[1], 'owner', ARGV[14], 'incarnation', ARGV[15], 'generation', ARGV[16], 'epoch', ARGV[4], 'in_seq', string.format('%d', base + #messages), 'in_claimed', ARGV[8],
  'in_adopted', 0, 'held', string.format('%d', held))
for i = 1, #fields, 2 do call('HSET', KEYS[1], fields[i], fields[i + 1]) end
-- The empty field keeps the table and its TTL when its last request is answered (see accept).
call('HSET', KEYS[3], '', '')
for i = at, #ARGV, 2 do call('HSET', KEYS[3], ARGV[i], ARGV[i + 1] .. ' 1 ') end
for _, id in ipairs(unclear) do call('HSET', KEYS[3], id, ARGV[8] .. ' 1 ') end
for i, e in ipairs(messages) do
  local seq = string.format('%d', base + i)
  call('HSET', KEYS[2], seq, packed(e[2], e[3], e[4]))
  if e[2] == 'q' then call('HSET', KEYS[3], e[3], seq .. ' 0 ') end
end
call('PEXPIRE', KEYS[3], ttl)
if #messages > 0 then call('PEXPIRE', KEYS[2], ttl) end
-- Who shows a stream of it looks, and finds another life.
for incarnation in pairs(wake) do call('PUBLISH', ARGV[5] .. incarnation, ARGV[6]) end
return 1
