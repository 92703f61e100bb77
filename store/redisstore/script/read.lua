-- KEYS: any; what is there of each, behind the epoch.
local answer = { epoch() or '' }
for i = 1, #KEYS do
  answer[i + 1] = redis.call('GET', KEYS[i])
end
return answer
