-- Begins a session anew for another client: no owner, and nothing of what was before.
-- KEYS: 1 session hash, 2 inbox, 3 request table, 4 seen request ids, 5.. event logs
-- ARGV: 1 epoch, 2 wake channel prefix, 3 session id, 4.. the streams of the event logs, in their order
-- Reply: 0 not found; {1, former owner} done; {2, stream, ...} nothing done, call again with the logs of these streams
local call = redis.call
thaw(KEYS[1])
local h = call('HMGET', KEYS[1], 'generation', 'incarnation', 'owner', 'in_seq')
if not h[1] then return 0 end
local known, unknown, streams, gone = {}, false, { 2 }, {}
local kept = { service = true, transport = true, principal = true, scopes = true, rules = true, client = true,
  created_ms = true, last_active_ms = true, ttl_ms = true, in_seq = true }
for i = 4, #ARGV do known[ARGV[i]] = true end
for _, field in ipairs(call('HKEYS', KEYS[1])) do
  local stream = string.match(field, '^s:(.*):seq$')
  if stream then
    streams[#streams + 1] = stream
    unknown = unknown or not known[stream]
  end
  -- Who holds the streams, and how often they were attached.
  if not kept[field] and not string.match(field, '^ac?:') then gone[#gone + 1] = field end
end
if unknown then return streams end
for _, field in ipairs(gone) do call('HDEL', KEYS[1], field) end
for i = 2, #KEYS do call('UNLINK', KEYS[i]) end
call('HSET', KEYS[1], 'incarnation', '', 'owner', '', 'generation', string.format('%d', h[1] + 1), 'epoch', ARGV[1],
  'in_claimed', h[4], 'in_adopted', 0, 'held', 0)
for i = 4, #ARGV do
  call('HSET', KEYS[1], 's:' .. ARGV[i] .. ':seq', 0, 's:' .. ARGV[i] .. ':first', 1, 's:' .. ARGV[i] .. ':bytes', 0)
end
if h[2] ~= '' then call('PUBLISH', ARGV[2] .. h[2], ARGV[3]) end
return { 1, h[3] }
