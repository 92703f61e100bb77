-- Makes buckets of one home full, and answers how many were in use. The value
-- stays, though it may be empty: one that is not there would be put back by a
-- replica that remembers it. KEYS[1] is the home, ARGV the id of the limit, or
-- nothing for all, and the clock, or nothing for that of Redis.

local v = redis.call('GET', KEYS[1])
if not v then
  return 0
end
local h = home(v)
if not h then
  return redis.error_reply('KELPIE value of a later version')
end
local t = redis.call('TIME')
local now = tonumber(ARGV[2]) or (t[1] - 1767225600) * 16000000 + t[2] * 16
local id = tonumber(ARGV[1])
-- Without fields nothing has to be later than now, whatever the clock was once.
local kept, gone = {high = now, v = v}, 0
if id then
  kept.high = h.high
end
for i = 1, #h do
  local f = h[i]
  if id and f.id ~= id then
    kept[#kept + 1] = f
  elseif U('<d', v, f.body) > now then
    gone = gone + 1
  end
end
redis.call('SET', KEYS[1], (value(kept, now)), 'KEEPTTL')
return gone
