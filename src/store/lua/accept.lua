-- Journals one message of the client (REQ-1, REQ-5, REQ-6).
-- KEYS: 1 session hash, 2 inbox, 3 request table, 4 seen request ids
-- ARGV: 1..3 fence (generation '' = the caller does not claim to be the owner), 4 wake channel prefix, 5 session id,
--   6 service or '', 7 request id, 8 kind (q request, n notification, r response), 9 id key (of a notification: that of
--   the request which it cancels), 10 body, 11 forward now, 12 acked, 13 max pending, 14 max inbox, 15 max bytes of
--   bodies, 16 last sequence of which the owner knows that it is claimed, 17 who shows the request's stream
--   from now on or '', 18 name of the event log, 19 who asks (principal), 20 its scopes, 21 protocol version that the POST
--   names or '', 22 names of the rules about who asks, 23 count of set items, then set items (field, value), then deletes
-- Reply: seq > 0 forward it; {4, seq, hot} the same; 0 not found; -10 not for who asks; -1 fenced; -2 too many; -3 wrong service; -5 too many
--   bytes; -6 the id is in use; -9 another protocol version was agreed on; -11 its client has been told an error (see
--   disown); -8 these are older data than the owner has seen;
--   {2, seq, owner, incarnation, generation, listeners, epoch, last event} queued; {3, seq, claimed, epoch, 0} duplicate
local call = redis.call
local h = call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'in_seq', 'in_claimed', 'service',
  'held', 'principal', 'scopes', 'version', 'rules', 'in_adopted', 'in_first', 'hot')
local hot = melted(h[14])
if hot then h[4], h[5], h[7] = hot[3], hot[3], hot[4] end
if not h[4] then return 0 end
if stranger(h[8], h[9], ARGV[19], ARGV[20]) then return -10 end
if ARGV[6] ~= '' and ARGV[6] ~= h[6] then return -3 end
if ARGV[21] ~= '' and h[10] and h[10] ~= ARGV[21] then return -9 end
local owner = ARGV[2] ~= ''
if owner and fenced(h) then return -1 end

local in_seq, in_claimed = tonumber(h[4]), tonumber(h[5])
if owner and tonumber(ARGV[16]) > in_claimed then return -8 end
local request = ARGV[8] == 'q'
local direct = owner and ARGV[11] == '1' and in_claimed == in_seq
local next_seq = in_seq + 1
local seq = string.format('%d', next_seq)

-- The sequence of the pending request with this id, if that is this very request; false if it is another one.
local function same_request(state)
  local first, forwarded, at = string.match(state, '^(%d+) (%d) ()')
  local entry = forwarded == '0' and call('HGET', KEYS[2], first)
  local body = string.sub(state, at)
  if entry then body = select(3, opened(entry)) end
  -- The body of a restored request is lost: nobody can tell.
  return (body == ARGV[10] or body == '') and first
end

-- One field of the request table is no request: it keeps the table, and with it its TTL, when all are answered.
local size = request and call('HLEN', KEYS[3])
local first
local too_many = request and math.max(size - 1, 0) >= tonumber(ARGV[13])
  or not direct and in_seq - in_claimed >= tonumber(ARGV[14])

-- Bytes of the bodies in inbox and request table. `held` is never less than they are: this script alone writes it, and
-- only adds. It counts before it refuses, and then not again until something has left: `<bytes> <what there was>`.
local held, counted = string.match(h[7] or '0', '^(%d+) ?(.*)$')
held = tonumber(held) + #ARGV[10]
local too_much = false
if held > tonumber(ARGV[15]) and not too_many then
  local there = call('HLEN', KEYS[2]) .. '/' .. call('HLEN', KEYS[3])
  too_much = there == counted
  if not too_much then
    held = held_bytes(KEYS[2], KEYS[3]) + #ARGV[10]
    too_much = held > tonumber(ARGV[15])
    -- Not `call`: no reason to fail when Redis is full.
    if too_much then
      thaw(KEYS[1])
      redis.pcall('HSET', KEYS[1], 'held', string.format('%d %s', held - #ARGV[10], there))
    end
  end
end
if too_many or too_much then
  first = call('ZSCORE', KEYS[4], ARGV[7])
  if not first and request then
    local state = call('HGET', KEYS[3], ARGV[9])
    first = state and same_request(state)
    if state and not first then return -6 end
    -- Not `call`: see above.
    if first then redis.pcall('ZADD', KEYS[4], first, ARGV[7]) end
  end
  if not first then return too_many and -2 or -5 end
-- The first write is one that Redis refuses when it is full, so that a refusal leaves nothing behind.
elseif call('ZADD', KEYS[4], 'NX', seq, ARGV[7]) == 0 then
  first = call('ZSCORE', KEYS[4], ARGV[7])
elseif request then
  local state = direct and (seq .. ' 1 ' .. ARGV[10]) or (seq .. ' 0 ')
  if size == 0 then
    call('HSET', KEYS[3], '', '', ARGV[9], state)
    call('PEXPIRE', KEYS[3], call('HGET', KEYS[1], 'ttl_ms'), 'NX')
  elseif call('HSETNX', KEYS[3], ARGV[9], state) == 0 then
    first = same_request(call('HGET', KEYS[3], ARGV[9]))
    if not first then
      call('ZREM', KEYS[4], ARGV[7])
      return -6
    end
    -- This name, too, is that request's: tried again after the answer it is still known, and its client waits for that.
    call('ZADD', KEYS[4], first, ARGV[7])
  end
end
local function show(number)
  if ARGV[17] ~= '' then call('HSET', KEYS[1], 'a:r' .. number, ARGV[17]) end
end
if first then
  if tonumber(first) % 1 ~= 0 then return -11 end
  -- A try of a POST that was journaled: its answer goes to the later one. The owner is not on record for that; whoever was
  -- (and may be dead) is not any more, or the owner would give way to it.
  local number = string.format('%d', first)
  if owner then call('HDEL', KEYS[1], 'a:r' .. number, 'ac:r' .. number) end
  show(number)
  -- Somebody waits for its answer again, if it has none (see disown).
  local state = request and call('HGET', KEYS[3], ARGV[9])
  if state and string.match(state, '^%d+') == number then call('HDEL', KEYS[1], 'mv:' .. number) end
  first = tonumber(first)
  return { 3, first, first <= in_claimed and 1 or 0, h[3], 0 }
end

if next_seq % 16 == 1 then
  call('ZREMRANGEBYSCORE', KEYS[4], '-inf', next_seq - 256)
  call('PEXPIRE', KEYS[4], call('HGET', KEYS[1], 'ttl_ms'), 'NX')
end
if not (request and direct) then
  call('HSET', KEYS[2], seq, packed(ARGV[8], ARGV[9], ARGV[10]))
  call('PEXPIRE', KEYS[2], call('HGET', KEYS[1], 'ttl_ms'), 'NX')
end

-- The mark stays with the request for whoever owns the session later (REQ-4).
if ARGV[8] == 'n' and ARGV[9] ~= '' then
  local state = call('HGET', KEYS[3], ARGV[9])
  if state then call('HSET', KEYS[1], 'cx:' .. ARGV[9], string.match(state, '^%d+')) end
end

local sets = 23 + 2 * tonumber(ARGV[23])
if sets > 23 then call('HSET', KEYS[1], unpack(ARGV, 24, sets)) end
-- From now on no weaker credential is enough. SEC-1
if ARGV[20] ~= (h[9] or '') then call('HSET', KEYS[1], 'scopes', ARGV[20]) end
if ARGV[22] ~= (h[11] or '') then call('HSET', KEYS[1], 'rules', ARGV[22]) end
if #ARGV > sets then call('HDEL', KEYS[1], unpack(ARGV, sets + 1)) end
-- The next one of this owner is like this one.
if hot and direct and request then
  hot[3], hot[4], hot[5] = seq, string.format('%d', held), string.format('%d', hot[5] + 1)
  hot = table.concat(hot, ' ')
  call('HSET', KEYS[1], 'hot', hot)
  return { 4, next_seq, hot }
end
if hot then thaw(KEYS[1]) end
if direct then
  in_claimed = next_seq
  call('HSET', KEYS[1], 'in_seq', seq, 'in_claimed', seq, 'held', string.format('%d', held))
else
  call('HSET', KEYS[1], 'in_seq', seq, 'held', string.format('%d', held))
end
if owner and ARGV[12] ~= '0' then ack(KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[12]), in_claimed, h[12], h[13]) end
if direct then return next_seq end

local listeners = 0
if owner then
  listeners = 1
elseif h[1] ~= '' then
  listeners = call('PUBLISH', ARGV[4] .. h[1], ARGV[5])
end
show(seq)
local more = call('HMGET', KEYS[1], 'owner', 's:' .. ARGV[18] .. ':seq')
return { 2, next_seq, more[1], h[1], h[2], listeners, h[3], tonumber(more[2] or 0) }
