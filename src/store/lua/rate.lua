-- One more request of a principal, if its rate allows it (GCRA: when the next one is due, in microseconds).
-- KEYS: 1 the principal
-- ARGV: 1 microseconds between two requests, 2 how many may come at once
-- Reply: 0 it may; else after so many microseconds
local between = tonumber(ARGV[1])
if between == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due = math.max(tonumber(redis.call('HGET', KEYS[1], 'due') or 0), now) + between
local wait = due - between * tonumber(ARGV[2]) - now
if wait > 0 then return wait end
redis.call('HSET', KEYS[1], 'due', string.format('%.0f', due))
redis.call('PEXPIRE', KEYS[1], math.ceil((due - now) / 1000) + 1)
return 0
