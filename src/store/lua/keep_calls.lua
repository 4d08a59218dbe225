-- Calls of a principal that are still under way, whether they were known or not.
-- KEYS: 1 the calls of the principal, by when each is over
-- ARGV: 1 how long they last (ms), then the calls
local time = redis.call('TIME')
local over = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1])
for at = 2, #ARGV do redis.call('ZADD', KEYS[1], over, ARGV[at]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
