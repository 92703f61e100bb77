-- Judges calls in order, charges those that are admitted, and answers with what
-- the caller needs to tell how each limit stands. KEYS are homes.
--
--   request  flags(1) stop(1) clock(8) floors(2) shapes(2) calls(2) floor* shape* call* lease?
--   flags    1 judge only, 2 the clock is the request's, 4 charge unjudged, 8 the long way,
--            16 charge ahead: one call of one rate or quota, of which `times` are asked for
--   floor    home(2) sign(12) body
--   shape    homes(1) group*
--   group    charges(1) states(1) numbers(1) sign* flags(1)* terms*
--            states and numbers: how many numbers the bodies and the terms are, of rates and quotas
--   terms    span(8) room(8) cost(8), for a quota, whose span is 0, from(8) to(8) later(8)
--   flags    1 shadow, 2 never fits
--   call     shape(2) times(2) home(2)*
--   lease    lead(8) share(8)
--
--   answer   clock(8) homes(2) absent(1)* call*
--   call     long(1) admitted(2) now(8) fits(4) charge*
--   charge   body, or if the call went the long way: stop(8) size(4) body
--
-- A shape is the charges of a call but for the homes, one group for each.
-- Of a call that comes `times` times the first that are admitted are charged,
-- and the state is that after them; fits has a bit for each charge, of the one
-- more that was not admitted if there was one. Only judged calls are answered.
-- An answer of 'C' and a clock says that a quota's calendar unit is not that of
-- the clock: nothing was done, ask again with the right one.

local U, P = struct.unpack, struct.pack
local req = ARGV[1]
local flags, stop, now, floors, shapes, calls, pos = U('<BBdI2I2I2', req)
local timed = flags % 4 < 2
if timed then
  local t = redis.call('TIME')
  now = (t[1] - 1767225600) * 16000000 + t[2] * 16
end

local values
if #KEYS == 1 then
  values = {redis.call('GET', KEYS[1])}
elseif #KEYS <= 1000 then
  values = redis.call('MGET', unpack(KEYS))
else
  values = {}
  for i = 1, #KEYS, 1000 do
    local got = redis.call('MGET', unpack(KEYS, i, math.min(i + 999, #KEYS)))
    for j = 1, #got do
      values[i + j - 1] = got[j]
    end
  end
end
local out
if #KEYS == 1 then
  out = {P('<dI2', now, 1) .. (values[1] and '\0' or '\1')}
else
  local absent = {}
  for i = 1, #KEYS do
    absent[i] = values[i] and '\0' or '\1'
  end
  out = {P('<dI2', now, #KEYS) .. table.concat(absent)}
end

-- The short way: calls of rates and quotas, which nearly all are. It does what
-- the long way below does, without its tables and functions, which a script
-- makes anew for each run. If it meets anything else nothing is written yet, and
-- the long way begins.
if flags < 4 and floors == 0 then
  local D = '<dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd'
  local sub, byte, floor = string.sub, string.byte, math.floor
  local news, needed, said, left = {}, {}, {out[1]}, calls
  local known, bodies, from, at = {}, nil, nil, pos
  for i = 1, shapes do
    local groups, p = byte(req, at), at + 1
    local k, T, n = {groups = groups}, nil, 0
    for g = 1, groups do
      local m, states, numbers = byte(req, p, p + 2)
      local stop = p + 3 + 12 * m
      local read = {U(sub(D, 1, 1 + numbers), req, stop + m)}
      read[numbers + 1] = nil -- where the reading stopped
      if g == 1 then
        T = read
      else
        local before = #T
        for j = 1, numbers do
          T[before + j] = read[j]
        end
      end
      k[g] = {m = m, states = states, sign = sub(req, p + 3, stop - 1)}
      p, n = stop + m + 8 * numbers, n + m
    end
    k.n, k.T = n, T
    known[i], at = k, p
  end
  while left > 0 do
    -- S has the states of the call's charges and T their terms, one after the
    -- other. A group's bodies stand together in its value from body on, or each
    -- by itself at apart[i].
    local shape, times, home = U('<I2I2I2', req, at)
    local k = known[shape]
    local groups, T, n = k.groups, k.T, k.n
    local judged, S, states, apart, plain, done = now, nil, 0, nil, true, 0
    for g = 1, groups do
      if g > 1 then
        home = U('<I2', req, at + 2 + 2 * g)
      end
      local group = k[g]
      local m, ownStates, sign = group.m, group.states, group.sign
      local v, body, found = news[home] or values[home], 0, nil
      if v then
        local version, fields = byte(v, 1, 2)
        if version ~= 1 then
          plain = false
          break
        end
        body = 3 + 12 * fields
        local high = U('<d', v, body)
        if high > judged then
          judged = high
        end
        body = body + 8
        if fields == m and sub(v, 3, 2 + 12 * m) == sign then
          found = {U(sub(D, 1, 1 + ownStates), v, body)}
        else
          -- Other limits of this home stand between them, or some are new.
          found, apart = {}, apart or {}
          local k = 1
          for i = 1, m do
            local one, offset = sub(sign, 12 * i - 11, 12 * i), 0
            local b, rate, bucket = body, byte(one) == 1, sub(one, 1, 5)
            for j = 3, 2 + 12 * fields, 12 do
              if sub(v, j, j + 11) == one then
                offset = b
                if rate then
                  break
                end
              elseif not rate and sub(v, j, j + 4) == bucket then
                plain = false -- it is counted by another calendar as well
              end
              local size = U('<I3', v, j + 9)
              b = b + size
            end
            apart[done + i] = offset
            if rate then
              if offset > 0 then
                found[k], found[k + 1], found[k + 2], found[k + 3], found[k + 4] = U('<ddddd', v, offset)
              end
              k = k + 5
            else
              if offset > 0 then
                found[k], found[k + 1], found[k + 2] = U('<ddd', v, offset)
              end
              k = k + 3
            end
          end
        end
      else
        found = {}
      end
      if g == 1 then
        S = found
      else
        for i = 1, ownStates do
          S[states + i] = found[i]
        end
      end
      if apart or groups > 1 then
        bodies, from = bodies or {}, from or {}
        bodies[g], from[g] = body, states
      end
      states, done = states + ownStates, done + m
      S[states + 1] = nil -- where the reading stopped
    end
    if not plain then
      break
    end
    -- How many of the calls fit: s and t go through states and terms.
    local granted, s, t = times, 1, 1
    for i = 1, n do
      local span, room, cost, owed = T[t], T[t + 1], T[t + 2], 0
      if span > 0 then
        local tat = S[s]
        if not tat then
          S[s], S[s + 1], S[s + 2], S[s + 3], S[s + 4] = judged, span, judged, judged - 1, 0
        elseif tat > judged then
          owed = tat - judged
          if S[s + 1] ~= span then
            plain = false
          end
        end
        s, t = s + 5, t + 3
      else
        local start, stops, later, ends = T[t + 3], T[t + 4], T[t + 5], S[s]
        if now < start or now >= later then
          return 'C' .. P('<d', now)
        end
        if ends and now < ends then
          owed = S[s + 2]
        else
          if now >= stops then
            start, stops = stops, later
          end
          S[s], S[s + 1], S[s + 2] = stops, start, 0
        end
        s, t = s + 3, t + 6
      end
      local room = room - owed
      if room < granted * cost then
        granted = floor(room / cost)
      end
    end
    if not plain then
      break
    end
    if granted < 0 then
      granted = 0
    end
    local taken = granted
    if flags % 2 == 1 then
      taken = 0
    end
    -- Charge them, and see which would have room for one more.
    local fits, bit, last = 0, 1, now
    s, t = 1, 1
    for i = 1, n do
      local span, cost, owed = T[t], T[t + 2], 0
      local ends = S[s]
      if span > 0 then
        if taken > 0 then
          if ends <= judged then
            ends = judged
            S[s + 1], S[s + 4] = span, 0
            local since = S[s + 3] + 1
            if since < judged then
              since = judged
            end
            S[s + 3] = since
          end
          if S[s + 2] < judged then
            S[s + 2] = judged
          end
          ends = ends + taken * cost
          S[s] = ends
        end
        if ends > judged then
          owed = ends - judged
        end
        s = s + 5
      else
        owed = S[s + 2] + taken * cost
        S[s + 2] = owed
        s = s + 3
      end
      if ends > last then
        last = ends
      end
      if granted == times or owed + cost <= T[t + 1] then
        fits = fits + bit
      end
      bit = bit + bit
      if span > 0 then
        t = t + 3
      else
        t = t + 6
      end
    end
    local content = P(sub(D, 1, 1 + states), unpack(S, 1, states))
    said[#said + 1] = P('<BI2dI4', 0, granted, judged, fits)
    said[#said + 1] = content
    if taken > 0 and groups == 1 and not apart then
      local group = k[1]
      local value = string.char(1, group.m) .. group.sign .. P('<d', judged) .. content
      if calls == 1 and timed then
        redis.call('PSETEX', KEYS[home], string.format('%d', (last - now + 960015999) / 16000), value)
        return out[1] .. P('<BI2dI4', 0, granted, judged, fits) .. content
      end
      news[home], needed[home] = value, last
    elseif taken > 0 then
      local i = 0
      for g = 1, groups do
        home = U('<I2', req, at + 2 + 2 * g)
        local m, sign, body, before = k[g].m, k[g].sign, bodies[g], 8 * from[g]
        local v = news[home] or values[home]
        local stop = 8 * states
        if g < groups then
          stop = 8 * from[g + 1]
        end
        local ends = last
        if not v or not apart or not apart[i + 1] then
          news[home] = string.char(1, m) .. sign .. P('<d', judged) .. sub(content, before + 1, stop)
        else
          local fields = byte(v, 2)
          local head, tail = sub(v, 3, 2 + 12 * fields), sub(v, body)
          for j = i + 1, i + m do
            local one = sub(sign, 12 * (j - i) - 11, 12 * (j - i))
            local size = byte(one) == 1 and 40 or 24
            local part, offset = sub(content, before + 1, before + size), apart[j]
            if offset > 0 then
              tail = sub(tail, 1, offset - body) .. part .. sub(tail, offset - body + size + 1)
            else
              head, tail, fields = head .. one, tail .. part, fields + 1
            end
            before = before + size
          end
          -- What else is there is carried through, and cleared away by the long way.
          local b = 1
          for j = 1, 12 * fields, 12 do
            local idle, size = U('<d', tail, b), U('<I3', head, j + 9)
            if idle + 960000000 <= now then
              plain = false
            elseif idle > ends then
              ends = idle
            end
            b = b + size
          end
          news[home] = string.char(1, fields) .. head .. P('<d', judged) .. tail
        end
        needed[home] = ends
        i = i + m
      end
      if not plain then
        break
      end
    end
    left, at = left - 1, at + 4 + 2 * groups
    if (stop == 1 and granted == 0) or (stop == 2 and granted > 0) then
      left = 0
    end
  end
  if left == 0 then
    for home, ticks in pairs(needed) do
      if timed then
        redis.call('PSETEX', KEYS[home], string.format('%d', (ticks - now + 960015999) / 16000), news[home])
      else
        redis.call('SET', KEYS[home], news[home])
      end
    end
    return table.concat(said)
  end
end
