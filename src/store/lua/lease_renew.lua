-- Renews a lease and the figures in it.
-- KEYS and ARGV as in lease_acquire
-- Reply: 1 renewed, 2 it had run out and is ours again, 0 another process has it
local holder = redis.call('HGET', KEYS[1], 'incarnation')
if holder and holder ~= ARGV[2] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], 'incarnation', ARGV[2], 'address', ARGV[3], 'version', ARGV[4], 'started_ms', ARGV[5],
  'sessions', ARGV[6], 'process', ARGV[7])
if holder then return 1 end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 2
