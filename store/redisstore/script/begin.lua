-- Who keeps the data: another process, or another history of it, may have lost
-- what was written last.
local function epoch()
  local run = string.match(redis.call('INFO', 'server'), '\nrun_id:(%w+)')
  local history = string.match(redis.call('INFO', 'replication'), '\nmaster_replid:(%w+)')
  if not run or not history then
    return nil
  end
  return run .. ':' .. history
end

-- The part of a record that no other one has in common with it.
local function head(raw)
  return string.sub(raw or '', 1, 35)
end
