-- Shared: drops the inbox entries up to `upto`, which have reached the upstream.
-- After an adoption the inbox may hold requests that are not marked forwarded yet, up to the sequence in
-- `in_adopted`. That they reached the upstream must not be forgotten with the entry (REQ-3), so they are marked here.
-- `first`: of the field `in_first`; what is below has gone.
local function ack(sess, inbox, req, upto, claimed, adopted, first)
  if upto > claimed then upto = claimed end
  if upto <= 0 then return end
  adopted, first = tonumber(adopted), tonumber(first or 1)
  if adopted > 0 then
    for _, e in ipairs(entries_of(inbox, first, upto)) do
      if e[2] == 'q' and redis.call('HGET', req, e[3]) == e[1] .. ' 0 ' then
        redis.call('HSET', req, e[3], e[1] .. ' 1 ' .. e[4])
      end
    end
    if upto >= adopted then redis.call('HSET', sess, 'in_adopted', 0) end
  end
  if upto < first then return end
  local gone = sequences(inbox, first, upto)
  if #gone == 0 then return end
  -- Lua cannot pass many more to one command.
  for i = 1, #gone, 1000 do redis.call('HDEL', inbox, unpack(gone, i, math.min(i + 999, #gone))) end
  redis.call('HSET', sess, 'in_first', string.format('%d', upto + 1))
end
