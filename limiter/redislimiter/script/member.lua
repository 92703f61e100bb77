-- Says that a replica lives, and answers how many do, below zero if this one was
-- not known. KEYS[1] is the sorted set of replicas by when they were last heard
-- of, ARGV the replica and for how many milliseconds one that is silent counts.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local new = redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%d', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local n = redis.call('ZCARD', KEYS[1])
if new == 1 then
  return -n
end
return n
