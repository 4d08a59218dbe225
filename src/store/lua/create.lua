-- Creates a session, or writes one again that the store has lost.
-- KEYS: 1 session hash, 2 request table
-- ARGV: 1 epoch, 2 service, 3 transport, 4 principal, 5 owner, 6 incarnation, 7 ttl ms, 8 stream or '', 9 attachment id,
--   10 generation, 11 inbox sequence, 12 count of fields, then fields (name, value), then pending requests (id key, seq)
-- Reply: 1 created, 2 the id is taken
if redis.call('EXISTS', KEYS[1]) == 1 then return 2 end
local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
-- What every message needs comes first: Redis finds the fields of a small hash by walking through it.
redis.call('HSET', KEYS[1], 'incarnation', ARGV[6], 'generation', ARGV[10], 'epoch', ARGV[1], 'in_seq', ARGV[11],
  'in_claimed', ARGV[11], 'in_adopted', 0, 'held', 0)
local stream = ARGV[8]
if stream ~= '' then
  redis.call('HSET', KEYS[1], 's:' .. stream .. ':seq', 0, 's:' .. stream .. ':first', 1, 's:' .. stream .. ':bytes', 0,
    'a:' .. stream, ARGV[6] .. ' ' .. ARGV[9], 'ac:' .. stream, 1)
end
redis.call('HSET', KEYS[1], 'service', ARGV[2], 'owner', ARGV[5], 'ttl_ms', ARGV[7], 'transport', ARGV[3],
  'principal', ARGV[4], 'created_ms', now, 'last_active_ms', now)
local fields_end = 12 + 2 * tonumber(ARGV[12])
for i = 13, fields_end, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
if #ARGV > fields_end then
  -- The empty field keeps the table and its TTL when its last request is answered (see accept).
  redis.call('HSET', KEYS[2], '', '')
  for i = fields_end + 1, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1] .. ' 1 ') end
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
end
return 1
