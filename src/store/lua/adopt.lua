-- Compare-and-set of the owner (OWN-4); hands the whole inbox to the new one.
-- KEYS: 1 session hash, 2 inbox, 3 request table
-- ARGV: 1 instance id, 2 incarnation and 3 generation it must have now, 4 new owner, 5 new incarnation, 6 '1': its lease
--   was seen to live (it is in another slot than the session, so the caller has looked just now), 7 wake channel prefix,
--   8 session id
-- Reply: 0 not found; {2, owner, incarnation, generation} lost; -7 its owner lives;
--   {1, former owner, session hash, {seq, kind, id key, body, ...} of the inbox, request table}
-- Whose lease lives is not replaced, but by itself: that of a process which is known to be dead is taken away first
-- (lease_release), that of one which has let the session go does not matter.
thaw(KEYS[1])
local h = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'owner', 'in_seq')
if not h[2] then return 0 end
if h[3] ~= ARGV[1] or h[1] ~= ARGV[2] or h[2] ~= ARGV[3] then return { 2, h[3], h[1], h[2] } end
if ARGV[6] == '1' then return -7 end
-- HDEL before HSET: adoption must work when Redis is full (a script is refused only before its first write).
redis.call('HDEL', KEYS[1], 'op', 'op_result', 'claim', 'claim_from', 'claim_to')
redis.call('HSET', KEYS[1], 'owner', ARGV[4], 'incarnation', ARGV[5], 'generation', string.format('%d', h[2] + 1),
  'in_claimed', h[4])
local inbox, has_requests = {}, false
for _, e in ipairs(entries_of(KEYS[2], 1, tonumber(h[4]))) do
  has_requests = has_requests or e[2] == 'q'
  for _, part in ipairs(e) do inbox[#inbox + 1] = part end
end
if has_requests then redis.call('HSET', KEYS[1], 'in_adopted', h[4]) end
-- One that had hung, and has got its lease back since the caller looked, is told that it is the owner no more: nothing else
-- might tell it for a long time, and for as long as it believes that it is, it adopts from nobody.
if h[1] ~= '' and h[1] ~= ARGV[5] then redis.call('PUBLISH', ARGV[7] .. h[1], ARGV[8]) end
return { 1, h[3], redis.call('HGETALL', KEYS[1]), inbox, redis.call('HGETALL', KEYS[3]) }
