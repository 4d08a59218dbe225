-- Keeps with a session what its client has shown, sealed, in the place of what was there.
-- KEYS: 1 session hash
-- ARGV: 1 who asks (principal), 2 its scopes, 3 what is kept
-- Reply: 1; 0 not found, or not for who asks
local h = redis.call('HMGET', KEYS[1], 'generation', 'principal', 'scopes')
if not h[1] or stranger(h[2], h[3], ARGV[1], ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'subject', ARGV[3])
return 1
