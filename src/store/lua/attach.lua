-- Makes an attachment the holder of its stream (OWN-7: the last one wins).
-- KEYS: 1 session hash
-- ARGV: 1 wake channel prefix, 2 session id, 3 stream, 4 incarnation of the holder, 5 attachment id, 6 who asks
--   (principal), 7 its scopes
-- Reply: 0 not found, or not for who asks; {owner, incarnation, generation, epoch, service, listeners, attach count}
local stream = ARGV[3]
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'owner', 'service', 'principal',
  'a:' .. stream, 'ac:' .. stream, 's:' .. stream .. ':seq', 'scopes')
if not h[2] or stranger(h[6], h[10], ARGV[6], ARGV[7]) then return 0 end
local holder, count = ARGV[4] .. ' ' .. ARGV[5], tonumber(h[8] or 0)
local former = h[7] and h[7] ~= holder and string.match(h[7], '^%S*')
-- HDEL before HSET: attaching must work when Redis is full (a script is refused only before its first write).
redis.call('HDEL', KEYS[1], 'a:' .. stream)
-- The same attachment again is a repeated call.
if h[7] ~= holder then count = count + 1 end
redis.call('HSET', KEYS[1], 'a:' .. stream, holder, 'ac:' .. stream, count)
-- The stream of a request has no log of its own.
if not h[9] and not string.match(stream, '^r%d+$') then
  redis.call('HSET', KEYS[1], 's:' .. stream .. ':seq', 0, 's:' .. stream .. ':first', 1, 's:' .. stream .. ':bytes', 0)
end
local listeners = 0
if h[1] == ARGV[4] then
  listeners = 1
elseif h[1] ~= '' then
  listeners = redis.call('PUBLISH', ARGV[1] .. h[1], ARGV[2])
end
-- The owner of another process has just been woken.
if former and (former ~= h[1] or h[1] == ARGV[4]) then redis.call('PUBLISH', ARGV[1] .. former, ARGV[2]) end
return { h[4], h[1], h[2], h[3], h[5], listeners, count }
