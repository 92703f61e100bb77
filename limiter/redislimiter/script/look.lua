-- Answers a record; nothing if there is none. KEYS[1] is the record.
return redis.call('HGET', KEYS[1], 'record')
