-- Lists the sessions of one client.
-- KEYS: 1 streams that are shown (members `<incarnation>:<session>`), 2 streams that have ended
-- ARGV: 1 sessions of each process at most, 2 processes at most, 3 longest time since the end of a stream, ms
-- Reply: {count of shown, then incarnation and session of each, then session and ms since its end of each that was left}
local call = redis.call
local reply, shown, from = { 0 }, 0, '-'
for _ = 1, tonumber(ARGV[2]) do
  local first = call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, 1)[1]
  if not first then break end
  local incarnation = string.match(first, '^(.*):')
  -- `;` is the character after `:`.
  local members = call('ZRANGEBYLEX', KEYS[1], '[' .. incarnation .. ':', '(' .. incarnation .. ';', 'LIMIT', 0, ARGV[1])
  for _, member in ipairs(members) do
    reply[#reply + 1] = incarnation
    reply[#reply + 1] = string.match(member, '[^:]*$')
    shown = shown + 1
  end
  from = '[' .. incarnation .. ';'
end
reply[1] = shown
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = call('ZREVRANGEBYSCORE', KEYS[2], '+inf', string.format('%d', now - ARGV[3]), 'WITHSCORES', 'LIMIT', 0,
  ARGV[1])
for i = 1, #left, 2 do
  reply[#reply + 1] = left[i]
  reply[#reply + 1] = string.format('%d', math.max(now - left[i + 1], 0))
end
return reply
