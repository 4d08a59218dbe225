-- Gives a lease up if it is ours.
-- KEYS: 1 lease hash
-- ARGV: 1 incarnation
if redis.call('HGET', KEYS[1], 'incarnation') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
