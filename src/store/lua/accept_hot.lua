-- Journals a request as `accept` does that the owner forwards at once, if what every message changes is as the owner knows it.
-- KEYS: 1 session hash, 2 request table, 3 seen request ids
-- ARGV: 1 `hot` as it must be, 2 as it is then, 3 sequence, 4 request id, 5 id key, 6 entry of the request table
-- Reply: 1 done; 0 nothing was done: `accept` is needed
local call = redis.call
if call('HGET', KEYS[1], 'hot') ~= ARGV[1] then return 0 end
if call('ZADD', KEYS[3], 'NX', ARGV[3], ARGV[4]) == 0 then return 0 end
if call('HSETNX', KEYS[2], ARGV[5], ARGV[6]) == 0 then
  call('ZREM', KEYS[3], ARGV[4])
  return 0
end
call('HSET', KEYS[1], 'hot', ARGV[2])
return 1
