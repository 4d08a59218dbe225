-- Shared: what every message changes, as one field (see docs/redis-model.md): `hot` =
-- `<generation> <epoch> <in_seq> <held> <pending> <seq> <first> <bytes> <gone> <op> <from>`. While it is there, it counts and not the
-- fields of the same names; everything is claimed (`in_claimed` is `in_seq`), nothing is in the inbox, and the last append wrote
-- the events `from` to `seq`.
local function melted(hot)
  if not hot then return nil end
  local parts = {}
  for part in string.gmatch(hot, '%S+') do parts[#parts + 1] = part end
  return parts
end

-- What the last append answered.
local function answered(hot)
  local seqs = {}
  for seq = tonumber(hot[11]), tonumber(hot[6]) do seqs[#seqs + 1] = string.format('%d', seq) end
  return table.concat(seqs, ' ')
end

-- The fields that `hot` stands for.
local function thawed(hot)
  return 'in_seq', hot[3], 'in_claimed', hot[3], 'held', hot[4], 's:g:seq', hot[6], 's:g:first', hot[7], 's:g:bytes', hot[8],
    's:g:gone', hot[9], 'op', hot[10], 'op_result', answered(hot)
end

-- For scripts that others than the owner call, or that change more than every message does: the fields count again.
-- HDEL before HSET: it must work when Redis is full (a script is refused only before its first write).
local function thaw(sess)
  local hot = melted(redis.call('HGET', sess, 'hot'))
  if not hot then return end
  redis.call('HDEL', sess, 'hot')
  redis.call('HSET', sess, thawed(hot))
end
