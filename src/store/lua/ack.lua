-- Shared: drops the inbox entries up to `upto`, which have reached the upstream.
-- After an adoption the inbox may hold requests that are not marked forwarded yet, up to the sequence in
-- `in_adopted`. That they reached the upstream must not be forgotten with the entry (REQ-3), so they are marked here.
local function ack(sess, inbox, req, upto, claimed)
  if upto > claimed then upto = claimed end
  if upto <= 0 then return end
  local adopted = tonumber(redis.call('HGET', sess, 'in_adopted'))
  if adopted > 0 then
    local entries = redis.call('XRANGE', inbox, '-', upto)
    for _, entry in ipairs(entries) do
      local e = entry[2]
      if e[2] == 'q' then
        local seq = string.match(entry[1], '^%d+')
        if redis.call('HGET', req, e[6]) == seq .. ' 0 ' then
          redis.call('HSET', req, e[6], seq .. ' 1 ' .. e[4])
        end
      end
    end
    if upto >= adopted then redis.call('HSET', sess, 'in_adopted', 0) end
  end
  redis.call('XTRIM', inbox, 'MINID', '=', (upto + 1) .. '-0')
end
