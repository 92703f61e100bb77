-- KEYS: the record, the pointer of its digest, those that have ended by their end,
-- then of its agent: all, all by their beginning; then the versions, and those of
-- each state.
-- ARGV: head of what was looked at, id, its beginning and its end as members.
if head(redis.call('GET', KEYS[1])) ~= ARGV[1] then
  return 'changed'
end
redis.call('DEL', KEYS[1])
if redis.call('GET', KEYS[2]) == ARGV[2] then
  redis.call('DEL', KEYS[2])
end
redis.call('ZREM', KEYS[3], ARGV[4])
redis.call('ZREM', KEYS[5], ARGV[3])
redis.call('ZREM', KEYS[4], ARGV[2])
for i = 6, #KEYS do
  redis.call('ZREM', KEYS[i], ARGV[2])
end
return 'done'
