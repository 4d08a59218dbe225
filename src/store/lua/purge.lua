-- Deletes a session with all its keys.
-- KEYS: 1 session hash, 2 inbox, 3 request table, 4 seen request ids, 5.. event logs
-- ARGV: 1 wake channel prefix, 2 session id, 3 who asks (principal), 4 its scopes, 5.. the streams of the event logs, in their order
-- Reply: 0 not found; -1 not for who asks; {1, owner} deleted; {2, stream, ...} nothing done, call again with the logs of these streams
local h = redis.call('HMGET', KEYS[1], 'generation', 'incarnation', 'owner', 'principal', 'scopes')
if h[1] and stranger(h[4], h[5], ARGV[3], ARGV[4]) then return -1 end
if h[1] then
  local known, unknown, streams, wake = {}, false, { 2 }, { [h[2]] = true }
  for i = 5, #ARGV do known[ARGV[i]] = true end
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local stream = string.match(field, '^s:(.*):seq$')
    if stream then
      streams[#streams + 1] = stream
      unknown = unknown or not known[stream]
    elseif string.sub(field, 1, 2) == 'a:' then
      wake[string.match(redis.call('HGET', KEYS[1], field), '^%S*')] = true
    end
  end
  if unknown then return streams end
  for incarnation in pairs(wake) do
    if incarnation ~= '' then redis.call('PUBLISH', ARGV[1] .. incarnation, ARGV[2]) end
  end
end
for i = 1, #KEYS do redis.call('UNLINK', KEYS[i]) end
return h[1] and { 1, h[3] } or 0
