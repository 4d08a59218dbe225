-- Ends an attachment, unless another one holds the stream by now (OWN-8).
-- KEYS: 1 session hash
-- ARGV: 1 stream, 2 attachment id, 3 wake channel prefix, 4 session id
-- Reply: 1 it was the holder, 0 it was not
local field = 'a:' .. ARGV[1]
local holder = redis.call('HGET', KEYS[1], field)
if not holder or string.match(holder, '%S+$') ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], field)
-- The stream of a request: nothing is kept of it.
if string.match(ARGV[1], '^r%d+$') then
  redis.call('HDEL', KEYS[1], 'ac:' .. ARGV[1])
  -- Its owner keeps the answer for whoever comes back.
  local owner = redis.call('HGET', KEYS[1], 'incarnation')
  if owner and owner ~= '' then redis.call('PUBLISH', ARGV[3] .. owner, ARGV[4]) end
  return 1
end
-- What the client sends from now on it sends without a stream.
local h = redis.call('HMGET', KEYS[1], 'in_seq', 'hot')
redis.call('HSET', KEYS[1], 'd:' .. ARGV[1], h[2] and melted(h[2])[3] or h[1])
return 1
