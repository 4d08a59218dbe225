-- Forgets the name of a POST that was answered (REQ-6).
-- KEYS: 1 seen request ids
-- ARGV: 1 request id
-- Reply: 1 done, 0 not known
local seq = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not seq then return 0 end
-- Something stays: with its last entry the key would lose its TTL, too.
redis.call('ZADD', KEYS[1], seq, '')
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
