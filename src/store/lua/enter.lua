-- One more call of a principal, unless so many are under way. One that nobody keeps is over by itself.
-- KEYS: 1 the calls of the principal, by when each is over
-- ARGV: 1 the call, 2 how many there may be, 3 how long it lasts (ms)
-- Reply: 0 it may; 1 it is under way already; 2 there are too many
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not known and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 2 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return known and 1 or 0
