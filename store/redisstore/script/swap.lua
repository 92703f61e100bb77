-- KEYS: the record, all of its agent, those of the agent that are pending by their
-- end, those that have ended by their end, the version of each, then those of each
-- state from 1 on.
-- ARGV: epoch, head of what was looked at, record, id, the new state, the version
-- that was looked at, its end as a member, the new end as a member or '', when it
-- ended as a member or '', the channel.
local states = 5
if epoch() ~= ARGV[1] then
  return 'epoch'
end
local raw = redis.call('GET', KEYS[1])
if not raw then
  return 'gone'
end
if head(raw) ~= ARGV[2] then
  return 'changed'
end
local seen = redis.call('ZSCORE', KEYS[5], ARGV[4])
if seen and tonumber(seen) > tonumber(ARGV[6]) then
  return 'older'
end
local number = redis.call('ZSCORE', KEYS[2], ARGV[4])
for i = states + 1, #KEYS do
  number = number or redis.call('ZSCORE', KEYS[i], ARGV[4])
end
redis.call('ZADD', KEYS[5], tonumber(ARGV[6]) + 1, ARGV[4])
redis.call('SET', KEYS[1], ARGV[3])
for i = states + 1, #KEYS do
  redis.call('ZREM', KEYS[i], ARGV[4])
end
redis.call('ZADD', KEYS[states + tonumber(ARGV[5])], number or 0, ARGV[4])
redis.call('ZREM', KEYS[3], ARGV[7])
if ARGV[8] ~= '' then
  redis.call('ZADD', KEYS[3], 0, ARGV[8])
end
if ARGV[9] ~= '' then
  redis.call('ZADD', KEYS[4], 0, ARGV[9])
end
redis.call('PUBLISH', ARGV[10], ARGV[4])
return 'done'
