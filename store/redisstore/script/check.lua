-- KEYS: one that nobody else uses. ARGV: the channel. Does once what the others do,
-- and returns the commands that the user may not run; '&' is that he may not use the
-- channel. Redis looks at the rights before it looks at the key.
local lacks, fault = {}, nil
local function try(name, ...)
  local r = redis.pcall(name, ...)
  if type(r) ~= 'table' or not r.err then
    return
  end
  if string.find(r.err, 'run th', 1, true) then -- "run this command", "run the 'get' command"
    lacks[#lacks + 1] = string.lower(name)
  elseif string.find(r.err, 'channel', 1, true) then
    lacks[#lacks + 1] = '&'
  else
    fault = fault or r.err
  end
end
try('SET', KEYS[1], '', 'PX', 1000)
try('GET', KEYS[1])
try('EXISTS', KEYS[1])
try('DEL', KEYS[1])
try('INCR', KEYS[1])
try('DEL', KEYS[1])
try('ZADD', KEYS[1], 0, '1')
try('ZSCORE', KEYS[1], '1')
try('ZLEXCOUNT', KEYS[1], '-', '+')
try('ZRANGEBYLEX', KEYS[1], '-', '+', 'LIMIT', 0, 1)
try('ZREVRANGEBYSCORE', KEYS[1], '+inf', '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
try('ZINTER', 1, KEYS[1], 'WITHSCORES')
try('ZREM', KEYS[1], '1')
try('PUBLISH', ARGV[1], '')
try('INFO', 'server')
if #lacks > 0 then
  return lacks -- what went wrong besides can come of that
end
if fault then
  return redis.error_reply(fault)
end
if not epoch() then
  return redis.error_reply('ERR INFO tells neither run_id nor master_replid')
end
return lacks
