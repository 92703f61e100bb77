-- KEYS: the new record, the pointer of its digest, the record that is pointed at,
-- the counter, the pending ones, then of the agent: all, those pending by their
-- end, all by their beginning.
-- ARGV: epoch, record, id, id and head that were looked at, end and beginning as
-- members or '' if it is not to be counted, the least member that is still pending and how many there may be, the
-- least member that is of the last hour and how many there may be, the channel.
if epoch() ~= ARGV[1] then
  return 'epoch'
end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[4] then
  return 'changed'
end
if ARGV[4] ~= '' and head(redis.call('GET', KEYS[3])) ~= ARGV[5] then
  return 'changed'
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'taken'
end
if tonumber(ARGV[9]) > 0 and redis.call('ZLEXCOUNT', KEYS[7], ARGV[8], '+') >= tonumber(ARGV[9]) then
  return 'quota'
end
if tonumber(ARGV[11]) > 0 and redis.call('ZLEXCOUNT', KEYS[8], ARGV[10], '+') >= tonumber(ARGV[11]) then
  return 'quota'
end
local number = redis.call('INCR', KEYS[4])
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[5], number, ARGV[3])
redis.call('ZADD', KEYS[6], number, ARGV[3])
if ARGV[6] ~= '' then
  redis.call('ZADD', KEYS[7], 0, ARGV[6])
  redis.call('ZADD', KEYS[8], 0, ARGV[7])
end
redis.call('PUBLISH', ARGV[12], ARGV[3])
return 'done'
