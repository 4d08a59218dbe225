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
    local entry, body = redis.call('HGET', KEYS[2], seq), ''
    if entry then body = select(3, opened(entry)) end
    -- HDEL before HSET: this only moves a body and must work when Redis is full (see claim).
    redis.call('HDEL', KEYS[2], seq)
    redis.call('HSET', KEYS[3], ARGV[i], seq .. ' 1 ' .. body)
  end
end
return 1
