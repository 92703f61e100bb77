-- The long way of script/short.lua, for calls of any kind.

local peeking, forced, leasing = flags % 2 == 1, flags % 8 >= 4, flags >= 16
local homes = {}
for i = 1, #KEYS do
  homes[i] = home(values[i])
  if not homes[i] then
    return redis.error_reply('KELPIE value of a later version')
  end
end

-- What a replica remembers of a value that was lost is put back, at least. What
-- was not lost is not written again.
local function restore(h, f, content)
  f.body, f.stop = 1, #content
  decode(f, content)
  local own, changed = find(h, f.kind, f.id, f.which), false
  if not own then
    h[#h + 1], changed = f, true
  elseif f.kind == RATE then
    local owed = debt(f, own.t, now)
    if owed > 0 and now + owed > own.tat then
      own.tat, changed = now + owed, true
    end
  elseif f.kind == WINDOW then
    for i = oldest(f.w, f.w[2]), f.w[2] do
      local n = f.w[4 + i % 17]
      if n > 0 and i > own.w[2] then
        add(own.w, i * own.w[1], n)
        changed = true
      elseif i <= own.w[2] and i >= own.w[2] - 16 and n > own.w[4 + i % 17] then
        own.w[4 + i % 17], changed = n, true
      end
    end
  elseif f.kind == QUOTA and f.to >= own.to then
    local used = max(own.from == f.from and own.used or 0, f.used)
    changed = used ~= own.used or own.to ~= f.to or own.from ~= f.from
    own.from, own.to, own.used = f.from, f.to, used
  end
  h.dirty = h.dirty or changed
end

for _ = 1, floors do
  local h, kind, id, which, size
  h, kind, id, which, size, pos = U('<I2BI4I4I3', req, pos)
  if U('<d', req, pos) > now then
    restore(homes[h], {kind = kind, id = id, which = which}, string.sub(req, pos, pos + size - 1))
  end
  pos = pos + size
end

-- fits tells whether a charge fits beside what the call takes already.
local function fits(c, at)
  local kind, h = c.kind, c.h
  local pend = 0
  for i = 1, #c.beside do
    local b = c.beside[i]
    if b.fits then
      local cost = b.cost
      if kind == RATE and b.span ~= c.span then
        cost = rescale(cost, b.span, c.span)
      end
      pend = pend + cost
    end
  end
  if c.never or pend + c.cost > c.room then
    return false
  end
  local own, others = find(h, kind, c.id, c.which)
  if kind == RATE then
    return debt(own, c.span, at) + pend + c.cost <= c.room
  elseif kind == WINDOW then
    return spent(window(own, others, c.span, at), at) + pend + c.cost <= c.room
  elseif kind == QUOTA then
    return quota(own, others, c, now).used + pend + c.cost <= c.room
  end
  return held(own, at) + pend + c.cost <= c.room
end

-- charge takes a charge. A bucket that is not there is made.
local function charge(c, at, cost)
  local kind, h = c.kind, c.h
  local own, others = find(h, kind, c.id, c.which)
  h.dirty = true
  local function keep(f)
    h[#h + 1] = f
    return f
  end
  if kind == RATE then
    own = own or keep({kind = RATE, id = c.id, which = c.which, tat = at, t = c.span, at = at, since = at - 1, back = 0})
    chargeRate(own, c.span, at, cost)
    if forced then
      own.tat = min(own.tat, at + min(MAXDEBT, 1000000000 * c.span))
    end
  elseif kind == WINDOW then
    if not own then
      own = keep({kind = WINDOW, id = c.id, which = c.which, w = window(nil, others, c.span, at)})
    end
    add(own.w, at, cost)
    for i = 1, others and #others or 0 do
      add(others[i].w, at, cost)
    end
  elseif kind == QUOTA then
    local q = quota(own, others, c, now)
    if not own then
      own = keep(q)
    end
    own.from, own.to, own.used = q.from, q.to, min(q.used + cost, MAXOWED)
    for i = 1, others and #others or 0 do
      local o = others[i]
      if now < o.to then
        o.used = min(o.used + cost, MAXOWED)
      end
    end
  elseif not forced then
    own = own or keep({kind = HOLDS, id = c.id, which = c.which, total = 0, list = '', off = 1})
    c.stop = chargeHold(own, at, c.span, cost)
  end
end

-- state is the body of the bucket that a charge was judged with; of a long list
-- of holds as much as tells when there is room again.
local function state(c, at)
  local own, others = find(c.h, c.kind, c.id, c.which)
  if c.kind == WINDOW and (own or others) then
    local w = window(own, others, c.span, at)
    return P(WINDOWBODY, (w[2] + 17) * w[1], unpack(w))
  elseif c.kind == QUOTA then
    return body(quota(own, others, c, now))
  elseif not own then
    return ''
  elseif c.kind == RATE then
    return body(own)
  end
  local total = held(own, at)
  local need = max(1, total + c.cost - c.room)
  for i = 1, #c.beside do
    need = need + (c.beside[i].fits and c.beside[i].cost or 0)
  end
  local sum, off = 0, own.off
  while off <= #own.list and sum < need do
    local _, n = hold(own.list, off)
    sum, off = sum + n, off + 16
  end
  local list, last = string.sub(own.list, own.off, off - 1), -MAXOWED
  if total > 0 then
    last = hold(own.list, #own.list - 15)
  end
  if sum < total then
    list = list .. P('<dd', last, total - sum)
  end
  return P('<dd', last, total) .. list
end

-- terms reads the terms of a charge, whose sign and flags stand before; it is
-- nil if they are for another calendar unit.
local function terms(c)
  c.span, c.room, c.cost, pos = U('<ddd', req, pos)
  if c.kind == QUOTA then
    c.from, c.to, c.later, pos = U('<ddd', req, pos)
    if now < c.from or now >= c.later then
      return nil
    end
  end
  return c
end

-- shape reads a shape: a list of charges, of which group tells the home.
local function shape()
  local groups
  groups, pos = U('<B', req, pos)
  local cs = {groups = groups}
  for g = 1, groups do
    local m, _
    m, _, _, pos = U('<BBB', req, pos)
    local first = #cs
    for i = 1, m do
      local c = {group = g}
      c.kind, c.id, c.which = U(SIGN, req, pos + 12 * (i - 1))
      local bits = string.byte(req, pos + 12 * m + i - 1)
      c.shadow, c.never = bits % 2 == 1, bits >= 2
      cs[first + i] = c
    end
    pos = pos + 13 * m
    for i = first + 1, first + m do
      if not terms(cs[i]) then
        return nil
      end
    end
  end
  return cs
end

-- read reads a call: its charges, and how often it comes.
local function read(known)
  local which, times, in_ = nil, nil, {}
  which, times, pos = U('<I2I2', req, pos)
  local of = known[which]
  for g = 1, of.groups do
    in_[g], pos = U('<I2', req, pos)
  end
  local cs = {times = times}
  for i = 1, #of do
    local o = of[i]
    local c = {
      h = homes[in_[o.group]], stop = 0, beside = {}, kind = o.kind, id = o.id, which = o.which, shadow = o.shadow,
      never = o.never, span = o.span, room = o.room, cost = o.cost, from = o.from, to = o.to, later = o.later,
    }
    for j = 1, i - 1 do
      local q = cs[j]
      if q.h == c.h and q.kind == c.kind and q.id == c.id then
        q.beside[#q.beside + 1], c.beside[#c.beside + 1] = c, q
      end
    end
    cs[i] = c
  end
  return cs
end

-- judge tells whether all charges that bind fit. Those in shadow come after.
local function judge(cs, at)
  local all, shadows = true, false
  for i = 1, #cs do
    local c = cs[i]
    c.fits = false
  end
  for i = 1, #cs do
    local c = cs[i]
    if c.shadow then
      shadows = true
    else
      c.fits = forced or fits(c, at)
      all = all and c.fits
    end
  end
  if shadows then
    for i = 1, #cs do
      local c = cs[i]
      if c.shadow then
        c.fits = forced or fits(c, at)
      end
    end
  end
  return all
end

-- lease charges units that are spent within lead ticks from now; at most a share
-- of what there is. Those of a rate are charged as if they came at the end of
-- that: then what is spent in any span was charged no earlier than its beginning,
-- or that much later. Those of a quota are void when its unit ends.
local function lease(c, times, at)
  local lead, share = U('<dd', req, #req - 15)
  local own, others = find(c.h, c.kind, c.id, c.which)
  local owed
  if c.kind == RATE then
    owed = max(debt(own, c.span, at), lead)
  else
    owed = quota(own, others, c, now).used
  end
  local n = min(times, floor((c.room - owed) / (c.cost * share)))
  if n < 1 then
    return 0
  end
  if c.kind == QUOTA then
    charge(c, at, n * c.cost)
  else
    charge(c, at, 0)
    own = find(c.h, RATE, c.id, c.which)
    -- What was charged before must not be given back out of the lead, and that is
    -- time, whatever rate another policy has.
    own.since, own.back, own.at = max(at, own.since + 1), 0, at + lead
    own.tat = max(own.tat, at + lead) + n * c.cost
  end
  c.h.high, c.fits = at, true
  return n
end

-- run judges and charges one call as often as it comes, and answers it.
local function run(cs, times)
  local at, granted, all = now, 0, true
  for i = 1, #cs do
    at = max(at, cs[i].h.high)
  end
  if leasing then
    granted, times = lease(cs[1], times, at), 0
  end
  while granted < times do
    all = judge(cs, at)
    if not all then
      break
    end
    granted = granted + 1
    if peeking then
      break
    end
    for i = 1, #cs do
      if cs[i].fits then
        charge(cs[i], at, cs[i].cost)
        cs[i].h.high = at
      end
    end
  end
  local fitting, bit = 0, 1
  for i = 1, #cs do
    if cs[i].fits then
      fitting = fitting + bit
    end
    bit = bit + bit
  end
  out[#out + 1] = P('<BI2dI4', 1, granted, at, fitting)
  for i = 1, #cs do
    local content = state(cs[i], at)
    out[#out + 1] = P('<dI4', cs[i].stop, #content)
    out[#out + 1] = content
  end
  return granted
end

local shaped = {}
for i = 1, shapes do
  shaped[i] = shape()
  if not shaped[i] then
    return 'C' .. P('<d', now)
  end
end
for i = 1, calls do
  local cs = read(shaped)
  local granted = run(cs, cs.times)
  if (stop == 1 and granted == 0) or (stop == 2 and granted > 0) then
    break
  end
end
if not peeking then
  local writes = {} -- before anything is written, so that what fails wrote nothing
  for i = 1, #KEYS do
    if homes[i].dirty then
      writes[#writes + 1] = store(KEYS[i], homes[i], now, timed)
    end
  end
  for i = 1, #writes do
    redis.call(unpack(writes[i]))
  end
end
return table.concat(out)
