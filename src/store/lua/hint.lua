-- Sets one field of a living session without proof of ownership: a hint between instances, never truth.
-- KEYS: 1 session hash
-- ARGV: 1 field, 2 value
-- Reply: 1 set, 0 no such session
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
