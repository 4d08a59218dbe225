-- Takes requests off the table without an answer (cancelled ones).
-- KEYS: 1 session hash, 2 inbox, 3 request table
-- ARGV: 1..3 fence, then id keys
-- Reply: 1 done, 0 not found, -1 fenced
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch')
if not h[2] then return 0 end
if fenced(h) then return -1 end
for i = 4, #ARGV do
  local state = redis.call('HGET', KEYS[3], ARGV[i])
  local waiting = state and string.match(state, '^(%d+) 0 ')
  if waiting then redis.call('XDEL', KEYS[2], waiting .. '-0') end
  redis.call('HDEL', KEYS[3], ARGV[i])
end
return 1
