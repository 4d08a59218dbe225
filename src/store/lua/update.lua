-- Sets and deletes session fields.
-- KEYS: 1 session hash
-- ARGV: 1..3 fence, 4 count of set items, then set items (field, value), then deletes
-- Reply: 1 done, 0 not found, -1 fenced
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch')
if not h[2] then return 0 end
if fenced(h) then return -1 end
local sets = 4 + 2 * tonumber(ARGV[4])
if sets > 4 then redis.call('HSET', KEYS[1], unpack(ARGV, 5, sets)) end
if #ARGV > sets then redis.call('HDEL', KEYS[1], unpack(ARGV, sets + 1)) end
return 1
