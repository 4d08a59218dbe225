-- Notes where the stream of one of a client's sessions is.
-- KEYS: 1 streams that are shown (members `<incarnation>:<session>`), 2 who shows each session, 3 streams that have ended
-- ARGV: 1 session id, 2 shown, left or gone, 3 incarnation ('' with left: whoever showed it), 4 ttl ms
-- Reply: 1 noted, 0 another process shows it
local call = redis.call
local former = call('HGET', KEYS[2], ARGV[1])
if ARGV[2] == 'left' and ARGV[3] ~= '' and former ~= ARGV[3] then return 0 end
if former then call('ZREM', KEYS[1], former .. ':' .. ARGV[1]) end
if ARGV[2] == 'gone' then
  call('HDEL', KEYS[2], ARGV[1])
  call('ZREM', KEYS[3], ARGV[1])
  return 1
end
if ARGV[2] == 'shown' then
  call('ZREM', KEYS[3], ARGV[1])
  call('HSET', KEYS[2], ARGV[1], ARGV[3])
  -- All of one score: ordered by their names, so that those of one process stand together.
  call('ZADD', KEYS[1], 0, ARGV[3] .. ':' .. ARGV[1])
else
  call('HDEL', KEYS[2], ARGV[1])
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('(%d', now - ARGV[4]))
  call('ZADD', KEYS[3], string.format('%d', now), ARGV[1])
end
for i = 1, 3 do call('PEXPIRE', KEYS[i], ARGV[4]) end
return 1
