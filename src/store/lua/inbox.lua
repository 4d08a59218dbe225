-- Shared: the inbox, a hash of sequence -> `<kind><length of the id key> <id key><body>`. An empty one is no key.
local function packed(kind, id, body) return kind .. #id .. ' ' .. id .. body end

-- Kind, id key and body.
local function opened(value)
  local kind, length, at = string.match(value, '^(%a)(%d+) ()')
  local body_at = at + tonumber(length)
  return kind, string.sub(value, at, body_at - 1), string.sub(value, body_at)
end

-- The sequences from `from` to `to` that may be there, in order. Of a wide range those that are.
local function sequences(inbox, from, to)
  local found, there = {}, redis.call('HLEN', inbox)
  if there == 0 then return found end
  if to - from < 2 * there then
    for seq = from, to do found[#found + 1] = seq end
    return found
  end
  for _, seq in ipairs(redis.call('HKEYS', inbox)) do
    seq = tonumber(seq)
    if seq >= from and seq <= to then found[#found + 1] = seq end
  end
  table.sort(found)
  return found
end

-- The entries from `from` to `to`, the first `max` of them: {sequence, kind, id key, body} each.
local function entries_of(inbox, from, to, max)
  local found, all = sequences(inbox, from, to), {}
  -- In steps, so that no more lies in the script than is wanted.
  for i = 1, #found, 64 do
    local upto = math.min(i + 63, #found)
    for j, value in ipairs(redis.call('HMGET', inbox, unpack(found, i, upto))) do
      if value then
        local kind, id, body = opened(value)
        all[#all + 1] = { found[i + j - 1], kind, id, body }
        if #all == max then return all end
      end
    end
  end
  return all
end
