-- Keeps a record for some milliseconds, unless there is one under its key.
-- KEYS[1] is the record, ARGV the record and the time.
if redis.call('HSETNX', KEYS[1], 'record', ARGV[1]) == 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 'OK'
