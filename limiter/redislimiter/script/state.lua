-- The buckets as they are kept: one value holds all buckets of one home.
--
--   value   version(1) fields(1) sign* high(8) body*
--   sign    kind(1) id(4) which(4) size(3)
--
-- high is the latest instant at which the value was written: a clock that goes
-- back stands still instead. id names the limit within the home, which tells a
-- window's width and a quota's calendar apart, size is that of the body. A body
-- begins with the instant at which the field is as good as not there. A field
-- that nobody asks about, of an unknown kind too, is carried through.
-- Numbers are little-endian doubles of whole values below 2^53, times are ticks
-- of 1/16 microsecond since 2026. The arithmetic is that of package limiter, step by
-- step; each function there has its twin here.

local floor, max, min = math.floor, math.max, math.min
local UNIT, MAXDEBT, MAXOWED, MAXHOLDS = 1000000, 505958400000000, 4000000000000000, 10000
local GRACE = 60 * 16000000 -- how long what is idle stays, for a clock that is set back
local RATE, WINDOW, QUOTA, HOLDS = 1, 2, 3, 4
local SIGN = '<BI4I4I3'
local WINDOWBODY = '<' .. string.rep('d', 21)

-- units: how much d ticks are at an interval of t, and whether it was rounded.
local function units(t, d)
  local whole = floor(d / t)
  local rest, part = d - whole * t, 0
  if t <= 9007199254 then
    rest = rest * UNIT
    part = floor(rest / t)
    rest = rest - part * t
  else -- by one digit at a time, as rest * UNIT would not be exact
    for _ = 1, 6 do
      rest = rest * 10
      local digit = floor(rest / t)
      rest = rest - digit * t
      part = part * 10 + digit
    end
  end
  return whole * UNIT + part, rest > 0
end

local function increment(t, cost)
  local whole = floor(cost / UNIT)
  local frac = cost - whole * UNIT
  if frac == 0 then
    return whole * t
  end
  local q = floor(t / UNIT)
  return whole * t + frac * q + math.ceil(frac * (t - q * UNIT) / UNIT)
end

local function rescale(d, from, to)
  local owed, more = units(from, d)
  if more then
    owed = owed + 1
  end
  if floor(owed / UNIT) >= floor(MAXDEBT / to) then
    return MAXDEBT
  end
  return min(increment(to, owed), MAXDEBT)
end

-- home opens a value. Fields are decoded when somebody asks for them.
local function home(v)
  if not v then
    return {high = -MAXOWED, absent = true}
  end
  local version, n = string.byte(v, 1, 2)
  if version ~= 1 then
    return nil
  end
  local pos, h = 3 + 12 * n, {v = v}
  h.high, pos = U('<d', v, pos)
  for i = 1, n do
    local kind, id, which, size = U(SIGN, v, 12 * i - 9)
    h[i] = {kind = kind, id = id, which = which, body = pos, stop = pos + size - 1}
    pos = pos + size
  end
  return h
end

-- decode readies a field of a known kind.
local function decode(f, v)
  local kind, p = f.kind, f.body
  if kind == RATE then
    f.tat, f.t, f.at, f.since, f.back = U('<ddddd', v, p)
  elseif kind == WINDOW then
    local w = {select(2, U(WINDOWBODY, v, p))}
    w[21] = nil -- where the body ends
    f.w = w
  elseif kind == QUOTA then
    f.to, f.from, f.used = U('<ddd', v, p)
  else
    f.idle, f.total = U('<dd', v, p)
    f.list, f.off = string.sub(v, p + 16, f.stop), 1
  end
  f.body = nil
end

-- body is the opposite of decode.
local function body(f)
  local kind = f.kind
  if kind == RATE then
    return P('<ddddd', f.tat, f.t, f.at, f.since, f.back)
  elseif kind == WINDOW then
    return P(WINDOWBODY, (f.w[2] + 17) * f.w[1], unpack(f.w))
  elseif kind == QUOTA then
    return P('<ddd', f.to, f.from, f.used)
  end
  local idle = -MAXOWED
  if f.off <= #f.list then
    idle = U('<d', f.list, #f.list - 15)
  end
  return P('<dd', idle, f.total) .. string.sub(f.list, f.off)
end

-- find returns the field of a kind, id and which; what differs in the last
-- alone comes as the second result.
local function find(h, kind, id, which)
  local own, others
  for i = 1, #h do
    local f = h[i]
    if f.id == id and f.kind == kind then
      if f.body then
        decode(f, h.v)
      end
      if f.which == which then
        own = f
      else
        others = others or {}
        others[#others + 1] = f
      end
    end
  end
  return own, others
end

-- value is what is written for a home, and for how many ticks it is needed.
local function value(h, now)
  local signs, parts, n, last = {}, {}, 0, now
  for i = 1, #h do
    local f = h[i]
    local content
    if f.body then
      content = string.sub(h.v, f.body, f.stop)
    else
      content = body(f)
    end
    local idle = U('<d', content)
    if idle + GRACE > now then
      n = n + 1
      last = max(last, idle)
      signs[n] = P(SIGN, f.kind, f.id, f.which, #content)
      parts[n] = content
    end
  end
  return string.char(1, n) .. table.concat(signs) .. P('<d', h.high) .. table.concat(parts), last - now + GRACE
end

-- store is the command that writes a home.
local function store(key, h, now, timed)
  local v, ticks = value(h, now)
  if timed then
    return {'PSETEX', key, string.format('%d', math.ceil(ticks / 16000)), v}
  end
  return {'SET', key, v}
end

-- Rates.

local function debt(f, t, now)
  if not f or f.tat <= now then
    return 0
  end
  if f.t == t then
    return f.tat - now
  end
  local old = rescale(f.tat - now, f.t, t)
  local new = rescale(f.tat - f.at, f.t, t) - (now - f.at)
  if f.at > now then
    return max(old, new)
  end
  return max(0, min(old, new))
end

local function chargeRate(f, t, now, inc)
  if f.tat <= now then
    f.tat, f.since, f.back = now, max(now, f.since + 1), 0
    f.t = t
  elseif f.t ~= t then
    f.tat, f.since, f.back = now + debt(f, t, now), max(now, f.since + 1), 0
    f.t = t
  end
  f.at = max(f.at, now)
  f.tat = f.tat + inc
end

-- Windows. A window is {width, newest, since, used of part 0, ... part 16}.

local function oldest(w, cur)
  return max(cur, w[2]) - 16
end

local function spent(w, now)
  local sum = 0
  for i = oldest(w, floor(now / w[1])), w[2] do
    sum = sum + w[4 + i % 17]
  end
  return sum
end

local function add(w, at, n)
  local i = max(floor(at / w[1]), w[2])
  for j = max(w[2] + 1, i - 16), i do
    w[4 + j % 17] = 0
  end
  w[2] = i
  w[4 + i % 17] = min(w[4 + i % 17] + n, MAXOWED)
end

-- window returns the one to judge with: the own, or what others amount to.
local function window(own, others, width, now)
  if own then
    return own.w
  end
  local w = {width, floor(now / width) - 17, now, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
  if others then
    local from = others[1].w
    for i = 2, #others do
      if others[i].w[1] > from[1] then
        from = others[i].w
      end
    end
    for i = oldest(from, floor(now / from[1])), from[2] do
      local n = from[4 + i % 17]
      if n > 0 then
        add(w, min((i + 1) * from[1] - 1, now), n)
      end
    end
  end
  return w
end

-- Quotas. What is returned is the stored field, or one that is not stored yet.

local function quota(own, others, c, now)
  if own and now < own.to then
    return own
  end
  local q = {kind = QUOTA, id = c.id, which = c.which, from = c.from, to = c.to, used = 0}
  if now >= c.to then
    q.from, q.to = c.to, c.later
  end
  if not own and others then
    for i = 1, #others do
      local o = others[i]
      if o.from >= q.from and o.to <= q.to then
        q.used = max(q.used, o.used)
      end
    end
  end
  return q
end

-- Holds: a list of (until, units), by until. off is where it begins; what ends
-- before it is gone.

local function hold(list, at)
  return U('<dd', list, at)
end

local function held(f, now)
  if not f then
    return 0
  end
  while f.off <= #f.list do
    local stop, n = hold(f.list, f.off)
    if stop > now then
      break
    end
    f.total, f.off = f.total - n, f.off + 16
  end
  return f.total
end

-- place is where an end stands in the list, or would.
local function place(f, stop)
  local low, high = (f.off - 1) / 16, #f.list / 16
  while low < high do
    local mid = floor((low + high) / 2)
    if hold(f.list, mid * 16 + 1) < stop then
      low = mid + 1
    else
      high = mid
    end
  end
  local at = low * 16 + 1
  return at, at <= #f.list and hold(f.list, at) == stop
end

-- splice puts an entry in the place of the old one at `at`, or before it.
local function splice(f, at, replaces, stop, n)
  local rest = at
  if replaces then
    rest = at + 16
  end
  local entry = ''
  if n > 0 then
    entry = P('<dd', stop, n)
  end
  f.list = string.sub(f.list, 1, at - 1) .. entry .. string.sub(f.list, rest)
end

-- chargeHold returns the end that the units were put under.
local function chargeHold(f, now, ticks, cost)
  held(f, now)
  local stop = now + ticks
  local at, found = place(f, stop)
  if found then
    local _, n = hold(f.list, at)
    splice(f, at, true, stop, n + cost)
  elseif (#f.list - f.off + 1) / 16 >= MAXHOLDS then
    if at > #f.list then
      at = at - 16
    else
      stop = hold(f.list, at)
    end
    local _, n = hold(f.list, at)
    splice(f, at, true, stop, n + cost)
  else
    splice(f, at, false, stop, cost)
  end
  f.total = f.total + cost
  return stop
end
