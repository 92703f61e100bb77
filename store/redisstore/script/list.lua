-- KEYS: sets to look into. ARGV: the number to begin below, how many.
-- Returns numbers and ids in turn, the highest number first.
local found = {}
for i = 1, #KEYS do
  local part = redis.call('ZREVRANGEBYSCORE', KEYS[i], ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
  for j = 1, #part, 2 do
    found[#found + 1] = { part[j], part[j + 1] }
  end
end
table.sort(found, function(a, b)
  local x, y = tonumber(a[2]), tonumber(b[2])
  return x > y or (x == y and a[1] > b[1])
end)
local answer = {}
for i = 1, math.min(#found, tonumber(ARGV[2])) do
  answer[#answer + 1] = found[i][2]
  answer[#answer + 1] = found[i][1]
end
return answer
