-- Deletes the session index of an instance that has no lease.
-- KEYS: 1 lease hash, 2 session index (same slot)
-- Reply: 1 forgotten, 0 it lives
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('UNLINK', KEYS[2])
return 1
