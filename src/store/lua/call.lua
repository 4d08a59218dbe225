-- What is on record of a call that outlives its instance; notes one thing of it, once.
-- KEYS: 1 the call
-- ARGV: 1 what to note (empty: only looks), 2 the note, 3 life in milliseconds, 4 '1': there may be no record yet
-- Reply: nothing (no record), or whether this note stands now, and what was asked, where, and what came of it
if ARGV[4] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local noted = 0
if ARGV[1] ~= '' then
  noted = redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
  if noted == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
end
local record = redis.call('HMGET', KEYS[1], 'asked', 'place', 'done')
return {noted, record[1] or '', record[2] or '', record[3] or ''}
