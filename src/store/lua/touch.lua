-- Extends the life of a session.
-- KEYS: 1 session hash, 2 inbox, 3 request table, 4 seen request ids
-- ARGV: 1 ttl ms
-- Reply: 0 not found; the names of its streams (their logs are extended by the caller: only now it knows their keys)
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return 0 end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'ttl_ms', ARGV[1], 'last_active_ms',
  time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
for i = 2, 4 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
local streams = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  streams[#streams + 1] = string.match(field, '^s:(.*):seq$')
end
return streams
