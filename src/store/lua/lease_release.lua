-- Gives a lease up if it is ours, and remembers whose it was last: that process is gone, whoever asks and however short the
-- asker has been there.
-- KEYS: 1 lease hash, 2 who has given it up (same slot)
-- ARGV: 1 incarnation, 2 how long that is remembered, ms
if redis.call('HGET', KEYS[1], 'incarnation') ~= ARGV[1] then return 0 end
-- DEL first: it must work when Redis is full (a script is refused only before its first write).
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('SETNX', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
