-- The client of a POST has been told an error, because nobody knew whether it was journaled: what becomes of it. REQ-2
-- KEYS: 1 session hash, 2 inbox, 3 request table, 4 seen request ids
-- ARGV: 1 request id, 2 id key
-- Reply: 0 not found; 1 it never runs; 2 it runs or has run, and its answer goes out on no stream; 3 another POST asks for it
local call = redis.call
local h = call('HMGET', KEYS[1], 'in_seq', 'hot')
if not h[1] then return 0 end
local in_seq = h[2] and melted(h[2])[3] or h[1]
-- Not journaled, and perhaps on its way: accept finds this name, whose number is none of a message, and leaves it.
if call('ZADD', KEYS[4], 'NX', in_seq + 0.5, ARGV[1]) == 1 then
  call('PEXPIRE', KEYS[4], call('HGET', KEYS[1], 'ttl_ms'), 'NX')
  return 1
end
local score = tonumber(call('ZSCORE', KEYS[4], ARGV[1]))
if score % 1 ~= 0 then return 1 end
local seq = string.format('%d', score)
for _, name in ipairs(call('ZREVRANGEBYSCORE', KEYS[4], seq, seq)) do
  -- The empty one is nobody's (see forget_post).
  if name ~= '' and name ~= ARGV[1] then return 3 end
end

local state = call('HGET', KEYS[3], ARGV[2])
local number, forwarded = string.match(state or '', '^(%d+) (%d)')
if number == seq and forwarded == '0' then
  call('HDEL', KEYS[2], seq)
  call('HDEL', KEYS[3], ARGV[2])
  call('HDEL', KEYS[1], 'cx:' .. ARGV[2], 'tp:' .. ARGV[2], 'a:r' .. seq, 'ac:r' .. seq)
  return 1
end
call('HDEL', KEYS[1], 'a:r' .. seq, 'ac:r' .. seq)
-- As if it had gone out already.
call('HSET', KEYS[1], 'mv:' .. seq, 1)
return 2
