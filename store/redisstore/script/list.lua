-- KEYS: sets to look into; with ARGV[3], the last is one that all have to be in too.
-- ARGV: the number to begin below, as "(number" or "+inf"; how many; '' or 'both'.
-- Returns numbers and ids in turn, the highest number first.
local found = {}
local function add(part, below)
  for j = 1, #part, 2 do
    if not below or tonumber(part[j + 1]) < below then
      found[#found + 1] = { part[j], part[j + 1] }
    end
  end
end
if ARGV[3] == 'both' then
  local below = tonumber(string.match(ARGV[1], '^%((%d+)$'))
  for i = 1, #KEYS - 1 do
    add(redis.call('ZINTER', 2, KEYS[i], KEYS[#KEYS], 'AGGREGATE', 'MAX', 'WITHSCORES'), below)
  end
else
  for i = 1, #KEYS do
    add(redis.call('ZREVRANGEBYSCORE', KEYS[i], ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2]))
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
