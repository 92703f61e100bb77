-- Sets a mark of a record to a value, unless it was set before, and answers what
-- it is now; nothing if there is no record. The record keeps its expiry.
-- KEYS[1] is the record, ARGV the mark and the value.
if redis.call('HEXISTS', KEYS[1], 'record') == 0 then
  return false
end
redis.call('HSETNX', KEYS[1], 'mark:' .. ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[1], 'mark:' .. ARGV[1])
