-- Hands the owner the next inbox entries.
-- KEYS: 1 session hash, 2 inbox, 3 request table
-- ARGV: 1..3 fence, 4 acked, 5 max entries, 6 first sequence that the owner may have missed, or 0,
--   7 sequence after which what is urgent is handed out unclaimed, or '', 8 last sequence of which the owner knows that it is
--   claimed, 9 stream, 10 its last sequence as the owner knows it
-- Reply: 0 not found; -1 fenced; -8 these are older data than the owner has seen; {more, attachments (stream, holder, ...; and `tp:` with the id of a request, its place in its trace), after, upto, last, seq, kind, id key, body, ...}
--   Of the sequences after `after` and up to `upto` nothing will ever come but these entries. Those beyond `upto` are the
--   urgent ones.
-- A reply may be lost, and an accept may be executed when its caller has given it up: what counts as claimed and is
-- neither acked nor answered is handed out again when the owner asks for it.
thaw(KEYS[1])
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'in_seq', 'in_claimed',
  's:' .. ARGV[9] .. ':seq', 'in_adopted', 'in_first')
if not h[4] then return 0 end
if fenced(h) then return -1 end
if tonumber(ARGV[8]) > tonumber(h[5]) or tonumber(ARGV[10]) > tonumber(h[6] or 0) then return -8 end
local in_seq, in_claimed, missing = tonumber(h[4]), tonumber(h[5]), tonumber(ARGV[6])
if ARGV[4] ~= '0' then ack(KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[4]), in_claimed, h[7], h[8]) end

local out = { 0, {}, in_claimed, in_claimed, in_seq }
local function hand_out(seq, kind, id, body)
  local n = #out
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] = seq, kind, id, body
end

if missing > 0 and missing <= in_claimed then
  local again = entries_of(KEYS[2], missing, in_claimed)
  if #again <= in_claimed - missing then
    local table_ = redis.call('HGETALL', KEYS[3])
    for i = 1, #table_, 2 do
      local seq, forwarded, at = string.match(table_[i + 1], '^(%d+) (%d) ()')
      seq = tonumber(seq or 0)
      if forwarded == '1' and seq >= missing and seq <= in_claimed then
        again[#again + 1] = { seq, 'q', table_[i], string.sub(table_[i + 1], at) }
      end
    end
    table.sort(again, function(a, b) return a[1] < b[1] end)
  end
  for _, e in ipairs(again) do hand_out(e[1], e[2], e[3], e[4]) end
  out[3] = missing - 1
end

local last = in_claimed
if in_claimed < in_seq and ARGV[5] ~= '0' then
  local max = tonumber(ARGV[5])
  local entries = entries_of(KEYS[2], in_claimed + 1, in_seq, max)
  local gone = {}
  last = in_seq
  -- Not HSET first: a claim frees more than it takes and must work when Redis is full. A script is refused only
  -- before its first write. (Earlier versions had these fields.)
  redis.call('HDEL', KEYS[1], 'claim', 'claim_from', 'claim_to')
  for _, e in ipairs(entries) do
    last = e[1]
    if e[2] == 'q' then
      redis.call('HSET', KEYS[3], e[3], string.format('%d 1 ', last) .. e[4])
      gone[#gone + 1] = last
    end
    hand_out(last, e[2], e[3], e[4])
  end
  if #gone > 0 then redis.call('HDEL', KEYS[2], unpack(gone)) end
  if #entries < max then last = in_seq end
  redis.call('HSET', KEYS[1], 'in_claimed', last)
end
out[4] = last
-- Without taking: what is claimed counts as forwarded.
if last < in_seq then out[1] = 1 end

if ARGV[7] ~= '' and last < in_seq then
  local from = math.max(last, tonumber(ARGV[7])) + 1
  for _, e in ipairs(entries_of(KEYS[2], from, in_seq)) do
    if e[2] == 'r' or e[2] == 'n' and e[3] ~= '' then hand_out(e[1], e[2], e[3], e[4]) end
  end
end

local attachments = out[2]
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 2) == 'a:' then
    attachments[#attachments + 1] = string.sub(field, 3)
    attachments[#attachments + 1] = redis.call('HGET', KEYS[1], field)
  elseif string.sub(field, 1, 3) == 'tp:' then
    attachments[#attachments + 1] = field
    attachments[#attachments + 1] = redis.call('HGET', KEYS[1], field)
  end
end
return out
