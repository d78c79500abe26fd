-- KEYS: the event. ARGV: how long it is one event (ms). Reply: 1 for the first that claims it, else 0.
if redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[1]) then return 1 end
return 0
