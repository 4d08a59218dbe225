-- Marks pending requests forwarded; their bodies move from the inbox to the request table.
-- KEYS: 1 session hash, 2 inbox, 3 request table
-- ARGV: 1..3 fence, then id keys
-- Reply: 1 done, 0 not found, -1 fenced
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch')
if not h[2] then return 0 end
if fenced(h) then return -1 end
for i = 4, #ARGV do
  local state = redis.call('HGET', KEYS[3], ARGV[i])
  local seq = state and string.match(state, '^(%d+) 0 ')
  if seq then
    local entry = redis.call('XRANGE', KEYS[2], seq, seq)[1]
    -- XDEL before HSET: this only moves a body and must work when Redis is full (see claim).
    redis.call('XDEL', KEYS[2], seq .. '-0')
    redis.call('HSET', KEYS[3], ARGV[i], seq .. ' 1 ' .. (entry and entry[2][4] or ''))
  end
end
return 1
