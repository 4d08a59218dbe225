-- Gives the session up without an heir and wakes the other processes that show its streams.
-- KEYS: 1 session hash
-- ARGV: 1..3 fence, 4 wake channel prefix, 5 session id
-- Reply: 0 not found; -1 fenced; {1, former owner}
thaw(KEYS[1])
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'owner')
if not h[2] then return 0 end
if fenced(h) then return -1 end
redis.call('HDEL', KEYS[1], 'op', 'op_result', 'claim', 'claim_from', 'claim_to')
redis.call('HSET', KEYS[1], 'owner', '', 'incarnation', '')
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 2) == 'a:' then
    local holder = string.match(redis.call('HGET', KEYS[1], field), '^%S*')
    if holder ~= h[1] then redis.call('PUBLISH', ARGV[4] .. holder, ARGV[5]) end
  end
end
return { 1, h[4] }
