-- Shared head of the scripts that do something for a client: is who asks another principal than the session belongs to
-- (`principal`, `scopes`: its fields), or does he come `with` fewer scopes than it was used with? Nobody asks '*' but the
-- router itself. SEC-1
local function stranger(principal, scopes, asks, with)
  if asks == '*' then return false end
  if asks ~= (principal or '') then return true end
  if not scopes or scopes == with then return false end
  with = ' ' .. with .. ' '
  for scope in string.gmatch(scopes, '%S+') do
    if not string.find(with, ' ' .. scope .. ' ', 1, true) then return true end
  end
  return false
end
