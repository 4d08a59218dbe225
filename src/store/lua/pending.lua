-- Requests without an answer.
-- KEYS: 1 request table, 2 inbox
-- Reply: id key, state, ... where state is '<seq> <forwarded> <body>'; the id key '' is no request
local out = redis.call('HGETALL', KEYS[1])
for i = 2, #out, 2 do
  local seq = string.match(out[i], '^(%d+) 0 ')
  if seq then
    local entry = redis.call('HGET', KEYS[2], seq)
    if entry then out[i] = out[i] .. select(3, opened(entry)) end
  end
end
return out
