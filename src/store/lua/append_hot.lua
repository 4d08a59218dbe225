-- Appends one event as `append` does, if what every message changes is as the owner knows it, and nobody elsewhere is to be told.
-- KEYS: 1 session hash, 2 request table, 3 event log
-- ARGV: 1 `hot` as it must be, 2 as it is then, 3 field of the stream's holder, 4 incarnation that may hold it, or '', 5 id key
--   that it answers or '', 6 entry of the log, 7 how many there are then, 8 count of set items, then set items (field, value),
--   then deletes
-- Reply: 1 done; 0 nothing was done: `append` is needed
local call = redis.call
local h = call('HMGET', KEYS[1], 'hot', ARGV[3])
if h[1] ~= ARGV[1] or h[2] and string.match(h[2], '^%S*') ~= ARGV[4] then return 0 end
-- The first write is one that Redis refuses when it is full: then `append` is needed, which frees something first.
local is_whole = call('RPUSH', KEYS[3], ARGV[6]) == tonumber(ARGV[7])
if not is_whole or ARGV[5] ~= '' and call('HDEL', KEYS[2], ARGV[5]) == 0 then
  call('LTRIM', KEYS[3], 0, -2)
  return 0
end
local sets = 8 + 2 * tonumber(ARGV[8])
call('HSET', KEYS[1], 'hot', ARGV[2], unpack(ARGV, 9, sets))
if #ARGV > sets then call('HDEL', KEYS[1], unpack(ARGV, sets + 1)) end
return 1
