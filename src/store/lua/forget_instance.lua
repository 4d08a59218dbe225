-- Deletes the session index of an instance that has no lease, and who had it last.
-- KEYS: 1 lease hash, 2 session index, 3 who has given the lease up (all in one slot)
-- Reply: 1 forgotten, 0 it lives
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('UNLINK', KEYS[2], KEYS[3])
return 1
