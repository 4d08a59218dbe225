-- Journals one message of the client (REQ-1, REQ-5, REQ-6).
-- KEYS: 1 session hash, 2 inbox, 3 request table, 4 seen request ids
-- ARGV: 1..3 fence (generation '' = the caller does not claim to be the owner), 4 wake channel prefix, 5 session id,
--   6 service or '', 7 request id, 8 kind (q request, n notification, r response), 9 id key, 10 body, 11 forward now,
--   12 acked, 13 max pending, 14 max inbox, 15 count of set items, then set items (field, value), then deletes
-- Reply: seq > 0 forward it; 0 not found; -1 fenced; -2 too many; -3 wrong service;
--   {2, seq, owner, incarnation, generation, listeners} queued; {3, seq, claimed} duplicate
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'service', 'owner', 'in_seq', 'in_claimed',
  'ttl_ms', 'in_adopted')
if not h[6] then return 0 end
if ARGV[6] ~= '' and ARGV[6] ~= h[4] then return -3 end
local owner = ARGV[2] ~= ''
if owner and fenced(h) then return -1 end

local in_seq, in_claimed = tonumber(h[6]), tonumber(h[7])
local request = ARGV[8] == 'q'
local first = redis.call('ZSCORE', KEYS[4], ARGV[7])
if not first and request then
  local state = redis.call('HGET', KEYS[3], ARGV[9])
  first = state and string.match(state, '^%d+')
end
if first then
  first = tonumber(first)
  return { 3, first, first <= in_claimed and 1 or 0 }
end

local direct = owner and ARGV[11] == '1' and in_claimed == in_seq
local pending = request and redis.call('HLEN', KEYS[3])
if request and pending >= tonumber(ARGV[13]) then return -2 end
if not direct and in_seq - in_claimed >= tonumber(ARGV[14]) then return -2 end

local seq = in_seq + 1
-- The first write is one that Redis refuses when it is full, so that a refusal leaves nothing behind.
redis.call('ZADD', KEYS[4], seq, ARGV[7])
if seq % 16 == 1 then
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', seq - 256)
  redis.call('PEXPIRE', KEYS[4], h[8], 'NX')
end
if request then
  redis.call('HSET', KEYS[3], ARGV[9], direct and (seq .. ' 1 ' .. ARGV[10]) or (seq .. ' 0 '))
  -- A hash that was emptied has lost its TTL with its life.
  if pending == 0 then redis.call('PEXPIRE', KEYS[3], h[8], 'NX') end
end
if not (request and direct) then
  redis.call('XADD', KEYS[2], seq .. '-0', 'k', ARGV[8], 'b', ARGV[10], 'i', ARGV[9])
  redis.call('PEXPIRE', KEYS[2], h[8], 'NX')
end

local fields = { 'in_seq', seq }
if direct then
  in_claimed = seq
  fields[3], fields[4] = 'in_claimed', seq
end
local sets = 15 + 2 * tonumber(ARGV[15])
for i = 16, sets do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[1], unpack(fields))
if #ARGV > sets then redis.call('HDEL', KEYS[1], unpack(ARGV, sets + 1)) end
if owner and ARGV[12] ~= '0' then
  ack(KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[12]), in_claimed, tonumber(h[9]))
end
if direct then return seq end

local listeners = 0
if owner then
  listeners = 1
elseif h[1] ~= '' then
  listeners = redis.call('PUBLISH', ARGV[4] .. h[1], ARGV[5])
end
return { 2, seq, h[5], h[1], h[2], listeners }
