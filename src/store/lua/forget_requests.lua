-- Takes requests off the table without an answer (cancelled ones), and their marks of a cancel.
-- KEYS: 1 session hash, 2 inbox, 3 request table
-- ARGV: 1..3 fence, then each: id key, sequence. Another sequence is another request: the id was used again.
-- Reply: 1 done, 0 not found, -1 fenced
thaw(KEYS[1])
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch')
if not h[2] then return 0 end
if fenced(h) then return -1 end
for i = 4, #ARGV, 2 do
  local id, seq = ARGV[i], ARGV[i + 1]
  local state = redis.call('HGET', KEYS[3], id)
  local pending, forwarded = string.match(state or '', '^(%d+) (%d) ')
  if pending == seq then
    if forwarded == '0' then redis.call('HDEL', KEYS[2], seq) end
    redis.call('HDEL', KEYS[3], id)
    redis.call('HDEL', KEYS[1], 'tp:' .. id)
  end
  if redis.call('HGET', KEYS[1], 'cx:' .. id) == seq then redis.call('HDEL', KEYS[1], 'cx:' .. id) end
end
return 1
