-- Gives back what was taken, entry by entry, as far as that cannot admit too
-- much. KEYS are homes.
--
--   request  flags(1) clock(8) entries(2) entry*
--   flags    2 the clock is the request's
--   entry    home(2) sign(12) span(8) cost(8) mark(8) mark(8)

local req = ARGV[1]
local flags, now, entries, pos = U('<BdI2', req)
local timed = flags % 4 < 2
if timed then
  local t = redis.call('TIME')
  now = (t[1] - 1767225600) * 16000000 + t[2] * 16
end
local homes = {}
for i = 1, #KEYS do
  local h = home(redis.call('GET', KEYS[i]))
  if not h then
    return redis.error_reply('KELPIE value of a later version')
  end
  homes[i] = h
end

local function refundRate(f, c, at)
  if f.tat <= at or f.since ~= c.mark2 or f.t ~= c.span then
    return
  end
  local last = c.mark1 == f.tat + f.back
  local credit = min(c.cost, c.mark1 - f.back - at)
  if credit <= 0 or f.back > MAXDEBT then
    return
  end
  f.tat = f.tat - credit
  if not last then
    f.back = f.back + credit
  end
  c.h.dirty = true
end

local function refundWindow(f, c, at)
  local w = f.w
  local i = floor(c.mark1 / w[1])
  if c.mark1 < w[3] or i < oldest(w, floor(at / w[1])) or i > w[2] then
    return
  end
  w[4 + i % 17] = max(0, w[4 + i % 17] - c.cost)
  c.h.dirty = true
end

local function refundQuota(own, others, c)
  if not own or own.from ~= c.mark1 or now >= own.to then
    return
  end
  own.used = max(0, own.used - c.cost)
  c.h.dirty = true
  for i = 1, others and #others or 0 do
    local q = others[i]
    if now < q.to and c.mark2 >= q.from and c.mark2 < q.to then
      q.used = max(0, q.used - c.cost)
    end
  end
end

local function refundHold(f, c)
  local at, found = place(f, c.mark1)
  if not found then
    return
  end
  local stop, n = hold(f.list, at)
  local back = min(c.cost, n)
  splice(f, at, true, stop, n - back)
  f.total = f.total - back
  c.h.dirty = true
end

for _ = 1, entries do
  local c, h, _ = {}, nil, nil
  h, c.kind, c.id, c.which, _, c.span, c.cost, c.mark1, c.mark2, pos = U('<I2BI4I4I3dddd', req, pos)
  c.h = homes[h]
  local at = max(now, c.h.high)
  local own, others = find(c.h, c.kind, c.id, c.which)
  if c.kind == QUOTA then
    refundQuota(own, others, c)
  elseif c.kind == WINDOW then
    if own then
      refundWindow(own, c, at)
    end
    for i = 1, others and #others or 0 do
      refundWindow(others[i], c, at)
    end
  elseif own and c.kind == RATE then
    refundRate(own, c, at)
  elseif own then
    refundHold(own, c)
  end
end
local writes = {}
for i = 1, #KEYS do
  if homes[i].dirty then
    writes[#writes + 1] = store(KEYS[i], homes[i], now, timed)
  end
end
for i = 1, #writes do
  redis.call(unpack(writes[i]))
end
return 'OK'
