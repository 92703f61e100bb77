-- KEYS: one that nobody else uses. ARGV: the channel. Does once what the others do.
redis.call('SET', KEYS[1], '', 'PX', 1000)
redis.call('GET', KEYS[1])
redis.call('EXISTS', KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('INCR', KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('ZADD', KEYS[1], 0, '1')
redis.call('ZSCORE', KEYS[1], '1')
redis.call('ZLEXCOUNT', KEYS[1], '-', '+')
redis.call('ZRANGEBYLEX', KEYS[1], '-', '+', 'LIMIT', 0, 1)
redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
redis.call('ZINTER', 1, KEYS[1], 'WITHSCORES')
redis.call('ZREM', KEYS[1], '1')
redis.call('PUBLISH', ARGV[1], '')
if not epoch() then
  return redis.error_reply('ERR INFO tells neither run_id nor master_replid')
end
return 'done'
