-- Takes an instance id for one process (OWN-11).
-- KEYS: 1 lease hash
-- ARGV: 1 ttl ms, 2 incarnation, 3 address, 4 version, 5 started ms, 6 sessions, 7 process
-- Reply: 1 acquired; the lease hash of the other process
local holder = redis.call('HGET', KEYS[1], 'incarnation')
if holder and holder ~= ARGV[2] then return redis.call('HGETALL', KEYS[1]) end
-- PEXPIRE before HSET: a lease must be had when Redis is full (a script is refused only before its first write).
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], 'incarnation', ARGV[2], 'address', ARGV[3], 'version', ARGV[4], 'started_ms', ARGV[5],
  'sessions', ARGV[6], 'process', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
