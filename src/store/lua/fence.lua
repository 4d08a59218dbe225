-- Shared head of every owner script: is the caller (incarnation, generation, epoch = ARGV[1..3]) still the owner?
-- `h` starts with the same three fields of the session hash. A released session has incarnation '', and nobody owns it
-- (OWN-1).
local function fenced(h)
  return h[1] == '' or h[1] ~= ARGV[1] or h[2] ~= ARGV[2] or h[3] ~= ARGV[3]
end
